"""Examine the installation for `resnet-infer env`: packages, runtimes, GPUs, the cache, and what is broken.

`probe` imports packages and opens models in child processes, `facts` describes what needs none, and `problems` is the
table of what can be wrong, each with its remedy.
"""
