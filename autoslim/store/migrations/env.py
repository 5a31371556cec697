"""What Alembic runs: the migrations, on the connection and within the transaction that `autoslim.store.migrate` passes on."""

from alembic import context

from autoslim.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
