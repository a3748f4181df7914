"""Bytes of image files to pixels and back: what they are, what they cost, how they are shown."""
