"""Search spaces: what a search may vary. YAML only; `README.md` describes the format."""
