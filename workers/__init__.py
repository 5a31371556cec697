"""What runs on the Ray cluster: the search's driver, its trials, and what they need on a node. The only place that imports Ray."""
