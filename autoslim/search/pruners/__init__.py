"""What stops trials early."""
