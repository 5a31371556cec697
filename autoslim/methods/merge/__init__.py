"""Token merging."""
