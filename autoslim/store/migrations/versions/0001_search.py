"""Jobs, trials, epochs, and what was logged elsewhere: the tables that schema 1 had, before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("autoslim_schema", sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
    op.execute("INSERT INTO autoslim_schema (version) VALUES (1)")
    op.create_table(
        "autoslim_jobs",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("base", sa.Text),
        sa.Column("chosen", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "autoslim_trials",
        sa.Column("job_id", sa.String(200), sa.ForeignKey("autoslim_jobs.id", ondelete="CASCADE"), primary_key=True),
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
    )
    op.create_index("autoslim_trials_by_key", "autoslim_trials", ["job_id", "recipe_key"])
    op.create_table(
        "autoslim_epochs",
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
        sa.ForeignKeyConstraint(["job_id", "number"], ["autoslim_trials.job_id", "autoslim_trials.number"], ondelete="CASCADE"),
    )
    op.create_table(
        "autoslim_tracking",
        sa.Column("job_id", sa.String(200), sa.ForeignKey("autoslim_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("destination", sa.String(16), primary_key=True),
        sa.Column("entity", sa.String(16), primary_key=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("logged", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("autoslim_tracking", "autoslim_epochs", "autoslim_trials", "autoslim_jobs", "autoslim_schema"):
        op.drop_table(table)
