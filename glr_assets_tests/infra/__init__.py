"""The files of infra/: what their own tools say of them, and the lineage run by them on several processes."""
