"""Whether the service is open to callers without a key. A store that has ever had a key is closed."""

import datetime

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    access = op.create_table(
        "autoslim_access",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changed_at", sa.String(32), nullable=False),
    )
    # Revoked and expired keys have their rows still.
    had_key = op.get_bind().execute(sa.select(sa.table("autoslim_keys", sa.column("id")).c.id).limit(1)).first() is not None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    op.bulk_insert(access, [{"id": 1, "state": "closed" if had_key else "open", "changed_at": now}])


def downgrade() -> None:
    op.drop_table("autoslim_access")
