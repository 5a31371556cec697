"""How a database comes to have the tables of `schema.py`, one step a file; `docs/developing/migrations.md` describes how to add one."""
