"""Which images train: the most diverse of large classes, extras for small ones, and why each is in or out."""
