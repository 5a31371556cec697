"""What a search chooses from."""
