"""Adds whose turn it is among the tenants, and the work that a job asks for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "autoslim_turns",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
    )
    op.add_column("autoslim_queue", sa.Column("work", sa.Double))


def downgrade() -> None:
    op.drop_column("autoslim_queue", "work")
    op.drop_table("autoslim_turns")
