"""The tables.

The names carry a prefix because users point several tools (Optuna, MLflow) at one database, and those have
tables called `jobs` and `trials` too. JSON is in Text columns: metrics may be NaN, which SQL's JSON refuses. `migrations/`
creates these tables; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

VERSION_TABLE = "autoslim_alembic"

metadata = sa.MetaData()

# Versions of autoslim from before there were migrations read this; they refuse what is above 2.
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
    sa.Column("seconds", sa.Double, nullable=False, server_default="0"),
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
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("reported_at", sa.String(32), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.UniqueConstraint("job_id", "number", "epoch", "phase"),
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

# For a SQLite file: when, in seconds since 1970, the clock of this boot of this machine was zero. Leases and pauses are counted in it.
clock = sa.Table(
    "autoslim_clock",
    metadata,
    sa.Column("boot", sa.String(80), primary_key=True),
    sa.Column("zero", sa.Float, nullable=False),
)

# A job as it was submitted, and its state. `autoslim_jobs` has a row of the same id once its search has started.
queue = sa.Table(
    "autoslim_queue",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("name", sa.String(64)),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("pauses", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(200)),
    sa.Column("lease_until", sa.String(32)),
    # Of the lease; on the steady clock, like it.
    sa.Column("renewed_at", sa.String(32)),
    sa.Column("cancel_requested_at", sa.String(32)),
    sa.Column("not_before", sa.String(32)),
    # Multiply-accumulates that the job computes at most; unknown until it is planned.
    sa.Column("work", sa.Double),
    sa.Column("error_class", sa.String(16)),
    sa.Column("error", sa.Text),
    sa.Column("next_command", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("updated_at", sa.String(32), nullable=False),
    sa.Column("started_at", sa.String(32)),
    sa.Column("ended_at", sa.String(32)),
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("autoslim_queue_by_state", "state", "priority", "id"),
    sa.Index("autoslim_queue_by_tenant", "tenant", "id"),
)

# The number of each tenant's last claim: whose number is lowest is next. A number and not a time, since clocks are set back.
turns = sa.Table(
    "autoslim_turns",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("turn", sa.BigInteger, nullable=False),
)

events = sa.Table(
    "autoslim_events",
    metadata,
    # SQLite counts up by itself in a column of this type only.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("job_id", sa.ForeignKey(queue.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("autoslim_events_by_job", "job_id", "seq"),
    sqlite_autoincrement=True,
)

# `digest` is the SHA-256 of the key's secret; the secret itself is nowhere.
keys = sa.Table(
    "autoslim_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.String(32)),
    sa.Column("last_used_at", sa.String(32)),
    sa.Column("revoked_at", sa.String(32)),
)

# One row. It is apart from the keys, because the service stays closed when no key is left.
access = sa.Table(
    "autoslim_access",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("changed_at", sa.String(32), nullable=False),
)
