"""Every method and every baseline on CIFAR-10, at the same budgets, with the same start, teacher, images and epochs.

    AUTOSLIM_DATA=... python benchmarks/methods_table.py --output runs/methods [--full] [--only tome,sit] [--dry-run]
    AUTOSLIM_DATA=... python benchmarks/methods_table.py --output runs/second-start --second-start

A run is a method, a chain of two or a baseline at a budget with a seed. Finished runs in --output are reused; failed ones are run again,
and the table has their errors until then. All epochs count: those of a mask search, of scores or of a regressor are taken from the
finetuning. The default is 10,000 training images, 3 epochs, one seed of the baselines and two of the others, and two processes of one
thread each; --full takes all images and 10 epochs. No run begins that is not expected to end within --hours; 70 % of the FLOPs is what is
left then, and the same command goes on with it. The teacher's logits are computed once and shared by the runs, which changes no result.

--second-start is the same at 35 % on a model that was trained without patch dropout (`dense_start.py`; first, where --output has none):
one that knows images with holes may care less about which patches it sees.

--archive names a file that keeps the finished runs of one setting, so that another machine goes on with them. With --table the tables are
printed from it, without a run.

--start takes the path of another dense model, such as one of another family (`dense_start.py --family`), and --source another data set
that it is trained for.

--only takes chains of any two methods, too, such as width+merge. width+rest+merge is the same chain, fine-tuned between its two prunings.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

from dense_start import train_start
from methods_archive import archived_runs, read_archive, write_archive
from methods_report import Results, table
from methods_rows import BASELINES, OURS, RESTS, ROWS, VARIANTS, unknown_row
from methods_runs import IMAGES, START, TRAINING, Run, Settings, estimated_minutes, is_done
from methods_schedule import BUDGETS, carry_out, planned, same_settings

SECOND_BUDGETS = ("35%",)
"""Of --second-start: where methods differ most from each other, and all are within reach."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--source", default=IMAGES, help="the images: a folder of the data's (default: %(default)s)")
    parser.add_argument("--images", type=int, help="training images, 0 for all (default: 10000)")
    parser.add_argument("--epochs", type=float, help="of every run, a method's own training included (default: 3)")
    parser.add_argument("--full", action="store_true", help="all images, 10 epochs, no limit of time")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, comma-separated (default: all)")
    parser.add_argument("--budgets", help=f"shares of the FLOPs, comma-separated (default: {','.join(BUDGETS)})")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--baseline-seeds", default="0", help="seeds of the baselines, comma-separated")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--start", default=START, help="the dense model: a folder of the data's, or the path of one (default: %(default)s)"
    )
    start.add_argument("--second-start", action="store_true", help="a model trained without patch dropout, at 35 %% alone")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--hours", type=float, help="of the runs of this call, 0 for no limit (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and their estimated minutes, and start none")
    parser.add_argument("--table", action="store_true", help="print the table of the finished runs, and start none")
    parser.add_argument(
        "--archive",
        type=Path,
        help="a Parquet file of finished runs: those that --output lacks are taken from it, and all are kept in it",
    )
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error(f"AUTOSLIM_DATA must name the folder that holds {arguments.source}/ and the dense model")
    if arguments.archive is not None and not arguments.archive.absolute().parent.is_dir():
        parser.error(f"--archive {arguments.archive}: its folder does not exist")
    if arguments.archive is not None and arguments.table and not arguments.archive.is_file():
        parser.error(f"--archive {arguments.archive} does not exist, so that there is no table of it")
    arguments.only = tuple(arguments.only.split(","))
    if (unknown := unknown_row(arguments.only)) is not None:
        allowed = (
            f"{', '.join(dict.fromkeys((*OURS, *VARIANTS, *BASELINES)))}, and of the first {len(OURS)} such as vit_slim+{OURS[0]}, "
            f"where {' or '.join(RESTS)} may stand between two"
        )
        parser.error(f"--only names {unknown!r}; allowed: {allowed}")
    usual = SECOND_BUDGETS if arguments.second_start else BUDGETS
    arguments.budgets = usual if arguments.budgets is None else tuple(arguments.budgets.split(","))
    arguments.seeds = tuple(int(seed) for seed in arguments.seeds.split(","))
    arguments.baseline_seeds = tuple(int(seed) for seed in arguments.baseline_seeds.split(","))
    arguments.images = (0 if arguments.full else 10_000) if arguments.images is None else arguments.images
    arguments.epochs = (10.0 if arguments.full else 3.0) if arguments.epochs is None else arguments.epochs
    arguments.hours = (0.0 if arguments.full else 2.0) if arguments.hours is None else arguments.hours
    return arguments


def main() -> None:
    arguments = parse()
    data, output = Path(os.environ["AUTOSLIM_DATA"]).absolute(), arguments.output.absolute()
    start = str(output / "start" / "model") if arguments.second_start else arguments.start
    if Path(start).is_dir():
        start = str(Path(start).absolute())
    if arguments.archive is not None and Path(start).is_absolute():
        sys.exit(f"--archive is for runs of a dense model among the data, not for {start}, which another machine does not have")
    settings = Settings(images=arguments.images, epochs=arguments.epochs, training=TRAINING, start=start, source=arguments.source)
    runs = planned(arguments.only, arguments.budgets, arguments.seeds, arguments.baseline_seeds)
    archived: set[Run] = set()
    if arguments.archive is not None and arguments.archive.is_file():
        archived = archived_runs(arguments.archive, settings)
    todo = [run for run in runs if run not in archived and not is_done(output, run)]
    minutes = [estimated_minutes(run, settings) for run in todo]
    if arguments.dry_run:
        print("\n".join(f"{run.folder}: about {cost:.1f} minutes" for run, cost in zip(todo, minutes, strict=True)))
        print(
            f"{len(todo)} runs to do, {len(runs) - len(todo)} done; about {math.ceil(sum(minutes) / arguments.processes)} minutes"
        )
        return
    same_settings(output, settings)
    if archived:
        read_archive(arguments.archive, output, settings)
    began, left = time.monotonic(), 0
    if todo and not arguments.table:
        if arguments.second_start:
            train_start(output / "start", data / settings.source)
        ends = time.monotonic() + 3600 * arguments.hours if arguments.hours else math.inf
        try:
            left = carry_out(todo, data, output, settings, arguments.processes, ends=ends)
        finally:
            if arguments.archive is not None:
                write_archive(arguments.archive, output, settings)
    elif arguments.archive is not None and not arguments.table:
        write_archive(arguments.archive, output, settings)
    print(table(Results(output, runs), arguments.only, arguments.budgets))
    if arguments.table:
        return
    print(f"\n{len(todo) - left} runs in this call, {(time.monotonic() - began) / 60:.0f} minutes on {os.cpu_count()} cores")
    if left:
        print(
            f"{left} runs are left, which would not have ended within {arguments.hours:g} hours; the same command goes on with them"
        )


if __name__ == "__main__":
    main()
