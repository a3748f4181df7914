"""What to fetch, decided from tables alone: class counts, what filling could add, and the fill plan."""
