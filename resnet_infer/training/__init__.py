"""Train networks with PyTorch by a recipe, on one process or several."""
