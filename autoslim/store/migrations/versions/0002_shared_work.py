"""What is worked out once for many trials is booked to the job: schema 2."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autoslim_jobs", sa.Column("shared", sa.Text, nullable=False, server_default="[]"))
    op.execute("UPDATE autoslim_schema SET version = 2")


def downgrade() -> None:
    op.drop_column("autoslim_jobs", "shared")
    op.execute("UPDATE autoslim_schema SET version = 1")
