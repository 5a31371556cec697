"""The wall time of a search is counted over all attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoslim_jobs", sa.Column("seconds", sa.Double, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("autoslim_jobs", "seconds")
