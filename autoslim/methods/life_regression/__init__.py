"""Life regression."""
