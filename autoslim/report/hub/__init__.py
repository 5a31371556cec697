"""A finished model on the Hugging Face hub: its metadata, its files without what is only known locally, and the upload."""

from autoslim.report.hub.upload import Pushed, push

__all__ = ["Pushed", "push"]
