"""Read images and data sets, and crop them as a model's input."""
