"""Renames `beat` to `phase` and its values, the values of `origin`, and the same names within the stored JSON."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Written out here and not imported: what this migration does stays the same when the code's names change again.
FIELDS = {"beat": "phase", "accuracy_after_cut": "accuracy_after_pruning"}
PHASES = {"cut": "prune", "tune": "finetune"}
ORIGINS = {"random": "control", "final": "refinement"}
EVENTS = ("trial_began", "trial_reported")
# Rows are rewritten in portions, because a store may hold more epochs than fit into memory.
PORTION = 1000

_text = sa.Text()
trials = sa.table("autoslim_trials", sa.column("job_id"), sa.column("number"), sa.column("origin"), sa.column("result", _text))
epochs = sa.table("autoslim_epochs", sa.column("job_id"), sa.column("number"), sa.column("position"), sa.column("report", _text))
events = sa.table("autoslim_events", sa.column("seq"), sa.column("type"), sa.column("data", _text))

Renames = tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]


def upgrade() -> None:
    _rename(FIELDS, PHASES, ORIGINS)


def downgrade() -> None:
    _rename(*({new: old for old, new in names.items()} for names in (FIELDS, PHASES, ORIGINS)))


def _rename(fields: Mapping[str, str], phases: Mapping[str, str], origins: Mapping[str, str]) -> None:
    (column, renamed), *_ = fields.items()
    _rename_column(column, renamed)
    names = sa.table("autoslim_epochs", sa.column(renamed))
    for old, new in phases.items():
        op.execute(names.update().where(names.c[renamed] == old).values({renamed: new}))
    for old, new in origins.items():
        op.execute(trials.update().where(trials.c.origin == old).values(origin=new))

    def renew(text: str) -> str:
        return _renewed(text, fields, {"beat": phases, "phase": phases, "origin": origins})

    _rewrite(trials, "result", (trials.c.job_id, trials.c.number), trials.c.result.is_not(None), renew)
    _rewrite(epochs, "report", (epochs.c.job_id, epochs.c.number, epochs.c.position), sa.true(), renew)
    _rewrite(events, "data", (events.c.seq,), events.c.type.in_(EVENTS), renew)


def _rename_column(old: str, new: str) -> None:
    # Both databases rename the column within the unique constraint, too; SQLite since 3.25.
    op.execute(f"ALTER TABLE autoslim_epochs RENAME COLUMN {old} TO {new}")


def _renewed(text: str, fields: Mapping[str, str], values: Mapping[str, Mapping[str, str]]) -> str:
    """The keys in the order that `json.dumps(sort_keys=True)` gives them, as the store writes them: it compares texts."""
    data: dict[str, Any] = json.loads(text)
    renamed = {fields.get(name, name): values.get(name, {}).get(value, value) if isinstance(value, str) else value
               for name, value in data.items()}  # fmt: skip
    return json.dumps(renamed, sort_keys=True)


def _rewrite(
    table: sa.TableClause, column: str, key: tuple[sa.ColumnClause[Any], ...], which: sa.ColumnElement[bool],
    renew: Callable[[str], str],
) -> None:  # fmt: skip
    connection, last = op.get_bind(), None
    while True:
        after = sa.true() if last is None else sa.tuple_(*key) > sa.tuple_(*last)
        rows = connection.execute(sa.select(*key, table.c[column]).where(which, after).order_by(*key).limit(PORTION)).all()
        for *place, text in rows:
            here = sa.and_(*(part == value for part, value in zip(key, place, strict=True)))
            if (fresh := renew(text)) != text:
                connection.execute(table.update().where(here).values({column: fresh}))
        if len(rows) < PORTION:
            return
        last = tuple(rows[-1])[:-1]
