"""The migrations that create the tables of `schema.py`, one step a file; CONTRIBUTING.md says how to add one."""
