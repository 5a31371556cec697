"""A search as seen in MLflow: one parent run a search, one child run a trial, made from the store and never read back."""

from autoslim.report.tracking.background import BackgroundSync
from autoslim.report.tracking.mlflow_client import default_tracking_uri
from autoslim.report.tracking.mlflow_sync import MlflowSync

__all__ = ["BackgroundSync", "MlflowSync", "default_tracking_uri"]
