"""Faults of the service and attacks on it, each beside a real job, for `service_faults.py`."""
