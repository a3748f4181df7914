"""Embeddings, the index over them, and what its neighbours say of a photograph."""
