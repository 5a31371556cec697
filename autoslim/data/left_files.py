"""`left_aside` and `take_left`: the files that an interrupted preparation has left are those that the next one begins with."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from autoslim.core.files import partial_folder

LIST = ".left"
"""Suffix of the list beside a file of encoded images (`LeftList`)."""


@contextlib.contextmanager
def left_aside(target: Path) -> Iterator[None]:
    """Around `publish_folder` of `target`, which begins with an empty folder: what an interrupted process has left there lies beside it in
    the block, for `take_left`."""
    partial, aside = partial_folder(target), _aside(partial_folder(target))
    _move(partial, aside)
    try:
        yield
    except BaseException as error:
        # Who is interrupted before it has taken it leaves it to the next one.
        if isinstance(error, Exception):
            shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def take_left(folder: Path) -> None:
    """Moves what was left to the folder that is written now."""
    _move(_aside(folder), folder)


def _aside(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}-left")


def _move(source: Path, target: Path) -> None:
    files = [path for path in source.glob("*") if path.suffix in (".arrow", LIST)]
    if files:
        target.mkdir(exist_ok=True)
    for path in files:
        path.replace(target / path.name)
