"""The progress of a search: callbacks for the console, the metrics and Ray's dashboard, the time left, the cost."""
