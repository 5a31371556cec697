"""A clock of leases and pauses that does not follow the time of day, for each boot of a machine that uses a SQLite file."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "autoslim_clock",
        sa.Column("boot", sa.String(80), primary_key=True),
        sa.Column("zero", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("autoslim_clock")
