"""`autoslim front`."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

from autoslim.cli.table import columns
from autoslim.errors import RequestError


def show_front(folder: str, *, all_trials: bool, as_json: bool, as_csv: bool) -> None:
    from autoslim.api.front import Front

    if as_json and as_csv:
        raise RequestError("--json and --csv exclude each other")
    front = Front.open(folder)
    if as_json or as_csv:
        _write_rows(front.to_rows(all_trials=all_trials), as_csv=as_csv)
        return
    sys.stdout.write("\n".join(columns(front.table(all_trials=all_trials), header=True)) + "\n")


def _write_rows(rows: list[dict[str, Any]], *, as_csv: bool) -> None:
    if not as_csv:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
