"""A whole installation on this machine's loopback: PostgreSQL, MLflow, two Ray nodes, the API and its supervisor."""
