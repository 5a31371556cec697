"""Search spaces: what a search may vary. YAML only; `README.md` tells the format."""
