"""Dynamic Patch Slimming."""
