"""Rendered photographs of landmarks that exist nowhere, for the embedded sample.

Everything is drawn from seeds, so the same arguments give the same bytes. Imported only where pictures are
rendered: it needs OpenCV.
"""
