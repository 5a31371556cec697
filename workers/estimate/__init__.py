"""What a search would cost."""
