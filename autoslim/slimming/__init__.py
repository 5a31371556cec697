"""One recipe without a search."""
