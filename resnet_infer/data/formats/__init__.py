"""Recognise and decode the image formats, and check the files for damage and hostile sizes."""
