"""The command line."""

from autoslim.cli.app import main

__all__ = ["main"]
