"""Patch Slimming."""
