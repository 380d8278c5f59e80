"""Decode TIFF images: directory of tags, layout, decompression and samples."""
