"""A search as seen in MLflow: one parent run a search, one child run a trial, made from the store and never read back."""

from autoslim.tracking.mirror import Mirror
from autoslim.tracking.remote import default_tracking_uri
from autoslim.tracking.thread import MirrorThread

__all__ = ["Mirror", "MirrorThread", "default_tracking_uri"]
