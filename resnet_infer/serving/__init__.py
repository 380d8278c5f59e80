"""Serve a model over HTTP: `resnet-infer serve`, run by BentoML."""
