"""The tables.

The names carry a prefix because users point several tools (Optuna, MLflow) at one database, and those have
tables called `jobs` and `trials` too. JSON lies in Text columns: metrics may be NaN, which SQL's JSON refuses.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 2

metadata = sa.MetaData()

schema_version = sa.Table("autoslim_schema", metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))

jobs = sa.Table(
    "autoslim_jobs",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("base", sa.Text),
    sa.Column("chosen", sa.Text, nullable=False),
    sa.Column("shared", sa.Text, nullable=False, server_default="[]"),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("updated_at", sa.String(32), nullable=False),
)

# `result` holds the whole TrialResult; the columns after it repeat what people ask of it in SQL.
trials = sa.Table(
    "autoslim_trials",
    metadata,
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("recipe_key", sa.String(32), nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("origin", sa.String(32), nullable=False),
    sa.Column("target", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("started_at", sa.String(32), nullable=False),
    sa.Column("ended_at", sa.String(32)),
    sa.Column("result", sa.Text),
    sa.Column("accuracy", sa.Double),
    sa.Column("flops", sa.BigInteger),
    sa.Column("params", sa.BigInteger),
    sa.Column("error", sa.Text),
    sa.Index("autoslim_trials_by_key", "job_id", "recipe_key"),
)

epochs = sa.Table(
    "autoslim_epochs",
    metadata,
    sa.Column("job_id", sa.String(200), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Double, nullable=False),
    sa.Column("beat", sa.String(16), nullable=False),
    sa.Column("reported_at", sa.String(32), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.UniqueConstraint("job_id", "number", "epoch", "beat"),
    sa.ForeignKeyConstraint(["job_id", "number"], [trials.c.job_id, trials.c.number], ondelete="CASCADE"),
)

tracking = sa.Table(
    "autoslim_tracking",
    metadata,
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("destination", sa.String(16), primary_key=True),
    sa.Column("entity", sa.String(16), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("logged", sa.Text, nullable=False),
)

UPGRADES = {1: "ALTER TABLE autoslim_jobs ADD COLUMN shared TEXT NOT NULL DEFAULT '[]'"}
"""The statement that takes a database from this version to the next."""
