"""The finished runs of `methods_table.py` in one Parquet file, small enough for the repository: the tables can be made from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from methods_runs import PRUNED_HITS, Facts, Run, Settings, is_done, write_facts

from autoslim.core.files import replacing_file

_SETTINGS = b"settings"
_COLUMNS = {"facts": pa.string(), "hits": pa.binary(), "pruned": pa.binary(), "images": pa.int32(), "pruned_images": pa.int32()}
"""A run per row: its `Facts` as JSON, and which test images (and, straight after pruning, which validation images) are classified
correctly, eight to a byte."""


def write_archive(file: Path, output: Path, settings: Settings) -> int:
    """Writes all finished runs of the folder, and returns how many. Failed ones are left out, as they are tried again."""
    rows = []
    for path in sorted((output / "runs").glob("*/facts.json")):
        facts = Facts.from_json(path.read_text())
        if facts.error and not facts.infeasible:
            continue
        hits, pruned = (_bits(path.parent / name) for name in ("hits.npy", PRUNED_HITS))
        rows.append(dict(zip(_COLUMNS, (facts.to_json(), hits[0], pruned[0], hits[1], pruned[1]), strict=True)))
    schema = pa.schema(_COLUMNS.items(), metadata={_SETTINGS: settings.to_json().encode()})
    with replacing_file(file) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
    return len(rows)


def read_archive(file: Path, output: Path, settings: Settings) -> int:
    """Writes the runs that the folder lacks into it, and returns how many.

    Exits where the archive has runs of other settings, which must not be mixed with those of the folder.
    """
    added = 0
    for row, facts in _rows(file, settings):
        run = _run(facts)
        if is_done(output, run):
            continue
        folder = output / "runs" / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, bits, images in (("hits.npy", "hits", "images"), (PRUNED_HITS, "pruned", "pruned_images")):
            if row[bits] is not None:
                np.save(folder / name, np.unpackbits(np.frombuffer(row[bits], dtype=np.uint8), count=row[images]).astype(bool))
        # Last: a run with facts is done.
        write_facts(folder, facts)
        added += 1
    return added


def archived_runs(file: Path, settings: Settings) -> set[Run]:
    """The runs in the archive. Exits as `read_archive` does."""
    return {_run(facts) for _, facts in _rows(file, settings)}


def _rows(file: Path, settings: Settings) -> Iterator[tuple[dict[str, Any], Facts]]:
    table = pq.read_table(file)
    found = (table.schema.metadata or {}).get(_SETTINGS, b"").decode()
    if not found or Settings.from_json(found) != settings:
        raise SystemExit(f"{file} holds runs of other settings ({found or 'it names none'}), not of {settings.to_json()}")
    for row in table.to_pylist():
        yield row, Facts.from_json(row["facts"])


def _run(facts: Facts) -> Run:
    return Run(name=facts.name, budget=facts.budget, seed=facts.seed)


def _bits(path: Path) -> tuple[bytes | None, int | None]:
    """None for a run without: one whose budget cannot be reached, or of an earlier version."""
    if not path.is_file():
        return None, None
    hits = np.load(path)
    return np.packbits(hits).tobytes(), len(hits)
