"""A search on a Ray cluster."""
