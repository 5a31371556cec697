"""The queue of jobs, their events, and the keys of those who may submit.

`autoslim_schema` is read by versions of autoslim from before there were migrations: they refuse what is above 2.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "autoslim_queue",
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
        sa.Column("cancel_requested_at", sa.String(32)),
        sa.Column("not_before", sa.String(32)),
        sa.Column("error_class", sa.String(16)),
        sa.Column("error", sa.Text),
        sa.Column("next_command", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("started_at", sa.String(32)),
        sa.Column("ended_at", sa.String(32)),
        sa.UniqueConstraint("tenant", "idempotency_key"),
    )
    op.create_index("autoslim_queue_by_state", "autoslim_queue", ["state", "priority", "id"])
    op.create_index("autoslim_queue_by_tenant", "autoslim_queue", ["tenant", "id"])
    op.create_table(
        "autoslim_events",
        # SQLite counts up by itself in a column of this type only.
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("job_id", sa.String(26), sa.ForeignKey("autoslim_queue.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        # Otherwise numbers of purged events would be given again, and a reader that resumes by number would miss the new ones.
        sqlite_autoincrement=True,
    )
    op.create_index("autoslim_events_by_job", "autoslim_events", ["job_id", "seq"])
    op.create_table(
        "autoslim_keys",
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
    op.execute("UPDATE autoslim_schema SET version = 3")


def downgrade() -> None:
    for table in ("autoslim_keys", "autoslim_events", "autoslim_queue"):
        op.drop_table(table)
    op.execute("UPDATE autoslim_schema SET version = 2")
