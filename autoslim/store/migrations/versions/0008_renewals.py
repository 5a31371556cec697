"""Adds when a lease was last renewed, so that a driver that is silent is told before its lease ends."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoslim_queue", sa.Column("renewed_at", sa.String(32)))


def downgrade() -> None:
    op.drop_column("autoslim_queue", "renewed_at")
