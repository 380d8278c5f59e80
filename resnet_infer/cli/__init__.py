"""Implement the command line, `resnet-infer`."""
