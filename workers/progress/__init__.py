"""How a search stands: console, metrics, Ray dashboard, cost."""
