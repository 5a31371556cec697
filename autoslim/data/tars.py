"""WebDataset: tars (`tar_file`) by split, and which of their members are the images and the labels."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from autoslim.data.assemble import Part, assemble, no_labels
from autoslim.data.columns import is_label_name, only_candidate
from autoslim.data.decode import SUFFIXES
from autoslim.data.labels import Coded, coded_texts
from autoslim.data.links import check_inside
from autoslim.data.shards import Shards, find_shards
from autoslim.data.split_names import split_named, split_of_file
from autoslim.data.table import NEEDS_LABELS, Source
from autoslim.data.tar_file import CLASS, JSON, Tar, members
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

SUFFIX = ".tar"
_SPLIT = re.compile(r"(?:(.*)[-_.])?([a-z]+)(?:[-_.]?\d+(?:[-_]?of[-_]?\d+)?)?", re.IGNORECASE)
_BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MAX_SHARDS = 100_000


def split_of_tar(path: Path) -> str | None:
    """As of other files, and also behind the name of the data set: `imagenet-train-000000.tar`."""
    found = _SPLIT.fullmatch(path.stem)
    return split_of_file(path) or (split_named(found[2]) if found else None)


def expand(source: str) -> list[Path] | None:
    """The files of a pattern such as `train-{000000..000002}.tar`; None for a source without one.

    Raises:
        DatasetError: for a pattern of another form, or of other files.
    """
    found = _BRACES.search(source)
    if found is None or Path(source).exists():
        return None
    first, last = int(found[1]), int(found[2])
    if _BRACES.search(source, found.end()) or not first <= last < first + _MAX_SHARDS:
        raise DatasetError(
            f"--data {source!r} has more than one range, an empty one, or more than {_MAX_SHARDS:,} files; allowed: {{000..123}}"
        )
    head, tail = source[: found.start()], source[found.end() :]
    paths = [Path(f"{head}{number:0{len(found[1])}}{tail}").expanduser() for number in range(first, last + 1)]
    for path in paths:
        if path.suffix.lower() != SUFFIX or not path.is_file():
            raise DatasetError(
                f"--data {source!r} means {path}, which is no {SUFFIX} that exists; allowed: a range of files that are all there"
            )
    return paths


def find_tars(root: Path, wanted: Wanted) -> Shards | None:
    """The tars of a folder by split; None where folders of splits or classes lie beside them, from which they may have been packed."""
    found = find_shards(root, SUFFIX, wanted, split_of=split_of_tar)
    if found is None or any(path.parent != root for path in found.files):
        return found
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    in_the_way = [path for path in folders if split_named(path.name)] if found.by_split else folders
    return None if in_the_way else found


def read_shards(root: Path, shards: Shards, wanted: Wanted) -> Source:
    """Tars by split; all are train where none is named like a split."""
    by_split, chosen = shards.by_split, shards.chosen
    not_used = shards.not_used
    if not by_split:
        by_split, not_used = {"train": list(shards.files)}, tuple(line for line in not_used if not line.endswith("no split"))
        chosen = (*chosen, f"all {len(shards.files)} tars as train, as none is named like a split")
    if "train" not in by_split:
        raise DatasetError(
            f"{root} has {', '.join(path.name for path in shards.files[:5])} but no train.tar, nor shards such as train-000000.tar"
        )
    for paths in by_split.values():
        _check_one_set(root, paths)
    return _source(str(root), by_split, wanted, not_used=not_used, chosen=chosen)


def read_tars(paths: Sequence[Path], wanted: Wanted) -> Source:
    """Tars that are named one by one, or by a pattern; from which the other splits are taken."""
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return _source(name, {"train": list(paths)}, wanted)


def sample_count(path: Path, most: int) -> int:
    """An upper bound: the members of a tar; counting ends above `most`."""
    found = 0
    for _ in members(path):
        found += 1
        if found > most:
            break
    return found


def _check_one_set(root: Path, paths: list[Path]) -> None:
    """Two sets of shards in one folder, such as old and new ones, would be read as one."""
    for path in paths:
        check_inside(root, path)
    heads = {re.split(r"\d", path.stem)[0] for path in paths if split_of_tar(path)}
    if len(heads) > 1:
        raise DatasetError(
            f"{root} has shards of different names, {', '.join(sorted(heads)[:5])}, for one split; allowed: one set of shards"
        )


def _source(
    name: str,
    by_split: dict[str, list[Path]],
    wanted: Wanted,
    *,
    not_used: tuple[str, ...] = (),
    chosen: tuple[str, ...] = (),
) -> Source:
    tars = {split: [Tar.open(path) for path in paths] for split, paths in by_split.items()}
    every = [tar for found in tars.values() for tar in found]
    fields = _Fields.choose(every, wanted)
    left = sorted({kind for tar in every for kind in tar.kinds} - {*fields.images, fields.label_member})
    ignored = sum(tar.ignored for tar in every)
    return assemble(
        name,
        {split: [fields.part(tar) for tar in found] for split, found in tars.items()},
        labelled=wanted.labelled,
        files=[path for paths in by_split.values() for path in paths],
        not_used=(
            *((f"the members {', '.join('.' + kind for kind in left[:20])}",) if left else ()),
            *((f"{ignored} members that are links, folders or without a suffix",) if ignored else ()),
            *not_used,
        ),
        chosen=(*chosen, *fields.chosen),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fields:
    """Which members are read: those of the images, and that of the label with the field of its JSON object."""

    images: tuple[str, ...]
    label_member: str | None = None
    label_field: str | None = None
    chosen: tuple[str, ...] = ()

    @classmethod
    def choose(cls, tars: Sequence[Tar], wanted: Wanted) -> _Fields:
        """By the kinds of members that there are, and the fields of the first JSON object."""
        first, kinds = tars[0], list(dict.fromkeys(kind for tar in tars for kind in tar.kinds))
        images = _images(tars, kinds, wanted)
        if not wanted.labelled:
            return cls(images=images)
        if wanted.label_column in kinds:
            return cls(images=images, label_member=wanted.label_column)
        if wanted.label_column is None and CLASS in kinds:
            return cls(images=images, label_member=CLASS)
        if JSON not in first.kinds:
            raise DatasetError(
                f"{first.path} has no members .{wanted.label_column or CLASS} or .{JSON} but {first.shown}; --label-column names the "
                f"members, or the field of .{JSON}, that have the classes; {NEEDS_LABELS}"
            )
        if wanted.label_column is not None:
            return cls(images=images, label_member=JSON, label_field=wanted.label_column)
        field = _label_field(first)
        return cls(images=images, label_member=JSON, label_field=field, chosen=(f"the labels of {field} in .{JSON}",))

    def part(self, tar: Tar) -> Part:
        return Part(name=str(tar.path), labels=self._labels(tar), rows=functools.partial(tar.rows, self.images))

    def _labels(self, tar: Tar) -> Coded:
        if self.label_member is None:
            return no_labels(len(tar.keys))
        tar.check_has(self.label_member)
        return coded_texts(tar.texts(self.label_member, self.label_field), f"{tar.path}: .{self.label_member}")


def _images(tars: Sequence[Tar], kinds: Sequence[str], wanted: Wanted) -> tuple[str, ...]:
    """One kind of member, or several of which a sample has one: `.jpg` or `.png`."""
    first = tars[0]
    if wanted.image_column is not None:
        if wanted.image_column not in kinds:
            raise DatasetError(
                f"{first.path} has no members .{wanted.image_column} but {first.shown}; --image-column names one of them"
            )
        return (wanted.image_column,)
    found = [kind for kind in kinds if f".{kind.rpartition('.')[2]}" in SUFFIXES]
    if all(tar.has_at_most_one_of(found) for tar in tars) and found:
        return tuple(found)
    return (only_candidate(found, "image", kinds, str(first.path)),)


def _label_field(tar: Tar) -> str:
    names = tar.json_fields()
    usual = [name for name in (CLASS, "label") if name in names][:1]
    return only_candidate(usual or [name for name in names if is_label_name(name)], "label", names, f"{tar.path}: .{JSON}")
