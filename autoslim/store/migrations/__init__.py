"""How a database comes to have the tables of `schema.py`, one step a file; CONTRIBUTING.md tells how one is added."""
