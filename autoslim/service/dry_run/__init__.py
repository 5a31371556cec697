"""Plans of specs, made in a separate process."""
