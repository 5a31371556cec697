"""A search as seen in MLflow: one parent run a search, one child run a trial, made from the store and never read back."""

from autoslim.report.tracking.background import BackgroundSync
from autoslim.report.tracking.mlflow_sync import MlflowSync
from autoslim.report.tracking.places import default_tracking_uri

__all__ = ["BackgroundSync", "MlflowSync", "default_tracking_uri"]
