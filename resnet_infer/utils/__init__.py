"""Provide what every subpackage needs and no other package gives: files, console, processor, memory, extras."""
