"""Offer the work of the packages below as functions with plain arguments. `resnet_infer` exports them."""
