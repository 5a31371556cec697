"""What faults of the service and attacks on it cost a job: lost, doubled, time, and what its user is told.

    python benchmarks/service_faults.py [--folder runs/faults] [--only TEXT]

One `autoslim serve` for each case, started by its command on loopback, and one job: a real search over scikit-learn's digits with a tiny
model. When its first trial has ended, the fault happens; the user asks for the job four times a second and afterwards submits the same
again. The first two rows are the job without a fault. What a case has shown is in FOLDER/results.jsonl; a second start skips it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "deploy")]

from faults import attacks, kills, surroundings  # noqa: E402
from faults.case import Case, Stage  # noqa: E402
from faults.service import left_behind  # noqa: E402
from faults.user import User  # noqa: E402

UNDISTURBED = [Case(name, lambda stage: "") for name in ("none", "none, once more")]
CASES = [*UNDISTURBED, *kills.CASES, *surroundings.CASES, *attacks.CASES]


def play(case: Case, folder: Path) -> dict[str, Any]:
    """What the table has of a case."""
    with case.host(folder) as service:
        mine, theirs = (service.new_key("mine"), service.new_key("theirs")) if case.tenants else (None, None)
        user = User(service.url, mine)
        user.submit()
        if not case.early:
            user.until_trials(1)
        began = time.monotonic()
        others = case.strike(Stage(folder, service, user, theirs))
        lasted = time.monotonic() - began
        user.cancel_later()
        verdict = user.verdict()
    row = {"case": case.name, "lasted": round(lasted, 1), "others": others, "left": left_behind(folder / "root")}
    return row | {"doubled": verdict.doubled} | dataclasses.asdict(verdict)


_HEAD = (
    "fault or attack",
    "state",
    "attempts",
    "lost",
    "doubled",
    "processes left",
    "job, s",
    "over undisturbed, s",
    "the user was told",
    "others were told",
)


def table(rows: list[dict[str, Any]]) -> str:
    alone = [row["seconds"] for row in rows if row["case"] in {case.name for case in UNDISTURBED}]
    lines = [_line(_HEAD), "|---" * len(_HEAD) + "|"]
    for row in rows:
        over = f"{row['seconds'] - sum(alone) / len(alone):+.0f}" if alone else ""
        counted = (row[name] for name in ("case", "state", "attempts", "lost", "doubled", "left"))
        lines.append(_line((*counted, f"{row['seconds']:.0f}", over, "<br>".join(row["told"]) or "nothing", row["others"])))
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="where the results are kept")
    parser.add_argument("--only", default="", help="cases whose names have this text")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "results.jsonl"
    known = {row["case"]: row for row in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    for case in CASES:
        if case.name in known or arguments.only not in case.name:
            continue
        with tempfile.TemporaryDirectory(prefix="autoslim-faults-", ignore_cleanup_errors=True) as folder:
            try:
                known[case.name] = play(case, Path(folder))
            except Exception:  # noqa: BLE001 - the other cases go on
                sys.stderr.write(f"{case.name}: not measured\n{traceback.format_exc()}\n")
                continue
        print(json.dumps(known[case.name]), file=sys.stderr)
        with file.open("a") as results:
            results.write(json.dumps(known[case.name]) + "\n")
    print(table([known[case.name] for case in CASES if case.name in known]))


if __name__ == "__main__":
    main()
