"""Get weights from elsewhere: built-in, published and other programs' files, and the cache."""
