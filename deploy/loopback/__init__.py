"""A complete installation on this machine's loopback: PostgreSQL, MLflow, two Ray nodes, the API and a supervisor."""
