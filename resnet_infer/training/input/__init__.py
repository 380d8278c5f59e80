"""Turn labelled pictures into batches: splits, augmentation, normalisation and worker processes."""
