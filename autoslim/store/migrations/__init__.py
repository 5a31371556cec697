"""The migrations that create the tables of `schema.py`, one step a file; `docs/developing/migrations.md` describes how to add one."""
