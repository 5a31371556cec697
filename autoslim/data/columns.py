"""Which columns hold the images and the labels: those that are asked for, the hub's `image` and `label`, or the only candidates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from autoslim.data.labels import can_be_labels
from autoslim.data.table import NEEDS_LABELS
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

IMAGE, LABEL = "image", "label"
"""The hub's names, which are taken without a guess."""

EXPECTED = (
    "expected the images in a column image (struct<bytes: binary, path: string>, bytes or paths) and the classes in a column label "
    "(whole numbers or texts); name others with --image-column and --label-column"
)
_PATHS = (
    "image",
    "img",
    "images",
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "image_file",
    "image_filename",
    "image_name",
    "img_name",
    "photo",
    "picture",
)
"""Columns of texts that are taken for paths of images, where none holds images themselves."""

_LABELS = (
    "label",
    "labels",
    "class",
    "classes",
    "class_name",
    "classname",
    "category",
    "target",
    "targets",
    "species",
    "y",
    "label_name",
    "class_id",
    "label_id",
    "category_name",
)
_LABEL_ENDS = ("_label", "_class", "_category")
_SHOWN = 20
"""Columns that a message lists, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """`label` is None where images alone are read. `chosen` says which columns were guessed, `not_used` which are left out."""

    image: str
    label: str | None
    chosen: tuple[str, ...] = ()
    not_used: tuple[str, ...] = ()

    def again(self, wanted: Wanted) -> Wanted:
        """Asks other files of the source for the same columns."""
        return dataclasses.replace(wanted, image_column=self.image, label_column=self.label)


def choose_columns(schema: Any, wanted: Wanted, where: str, *, known: tuple[str, ...] = ()) -> Columns:
    """The columns of an Arrow schema; those that are `known` have another use, and are no candidates.

    Raises:
        DatasetError: where a column is missing or of a wrong type, or where there are several candidates.
    """
    _check_names(schema, where)
    image = _chosen(schema, wanted.image_column, IMAGE, _image_candidates(schema, known), where)
    _check_images(schema.field(image).type, image, where)
    label = None
    if wanted.labelled:
        label = _chosen(schema, wanted.label_column, LABEL, _label_candidates(schema, {image, *known}), where)
        if not can_be_labels(schema.field(label).type):
            raise DatasetError(f"{where}: column {label} is {schema.field(label).type}; {EXPECTED}")
    guessed = [f"the images of column {image}"] if image != IMAGE and wanted.image_column is None else []
    if label not in (None, LABEL) and wanted.label_column is None:
        guessed.append(f"the labels of column {label}")
    left = [name for name in schema.names if name not in {image, label, *known}]
    return Columns(
        image=image,
        label=label,
        chosen=tuple(guessed),
        not_used=(f"the columns {_listed(left)}",) if left else (),
    )


def check_token_labels(schema: Any, wanted: Wanted, where: str) -> None:
    """Raises DatasetError where labels of patches are wanted, and are not in a column of bytes of the Arrow schema."""
    if wanted.token_label_folder is not None:
        raise DatasetError(
            f"token_labels is {wanted.token_labels!r}, a folder, but {where} has columns; allowed: the name of one of them, without a /"
        )
    name = wanted.token_label_column
    if name is not None and (schema.names.count(name) != 1 or not is_binary(schema.field(name).type)):
        raise DatasetError(
            f"{where} has no column {name!r} of bytes for --token-labels, but {_listed(schema.names)}; expected an encoded array for each "
            "image, as numpy.save, torch.save or safetensors write it"
        )


def given_names(schema: Any, label: str, where: str) -> tuple[str, ...]:
    """Names of the classes from the hub's metadata of the schema; empty where there are none.

    Raises:
        DatasetError: for metadata of another form.
    """
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    try:
        names = json.loads(text)["info"]["features"][label].get("names", [])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{where}: metadata `huggingface` has no info.features.{label} as a JSON object") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{where}: metadata `huggingface` has class names {names!r}; expected a list of strings")
    return tuple(names)


def _check_names(schema: Any, where: str) -> None:
    """Arrow decodes a name when it is asked for."""
    try:
        for field in schema:
            _ = [field.name, *([child.name for child in field.type] if pa.types.is_struct(field.type) else [])]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where} has a column whose name is not UTF-8; write the file again") from error


def _chosen(schema: Any, asked: str | None, usual: str, candidates: list[str], where: str) -> str:
    flag = f"--{usual}-column"
    name = usual if asked is None and usual in candidates else asked
    if name is not None:
        if schema.names.count(name) != 1:
            many = "no" if name not in schema.names else "more than one"
            raise DatasetError(f"{where} has {many} column {name!r} but {_listed(schema.names)}; {flag} names one of them")
        return name
    return only_candidate(candidates, usual, schema.names, where)


def only_candidate(candidates: list[str], usual: str, names: Iterable[str], where: str) -> str:
    """The one column that may hold the `usual`, image or label; raises DatasetError where there are several or none among all `names`."""
    if len(candidates) > 1:
        raise DatasetError(
            f"{where} has the columns {_listed(candidates)}, each of which may be the {usual}; choose one with --{usual}-column "
            f"{candidates[0]}"
        )
    if not candidates:
        needs = f"; {NEEDS_LABELS}" if usual == LABEL else ""
        raise DatasetError(f"{where} has no column {usual!r} but {_listed(list(names))}; {EXPECTED}{needs}")
    return candidates[0]


def _image_candidates(schema: Any, known: tuple[str, ...]) -> list[str]:
    """Columns that hold encoded images; where there are none, texts with the name of a path."""
    found = _named(schema, known, lambda field: holds_bytes(field.type))
    if IMAGE in schema.names and IMAGE not in found and IMAGE not in known:
        found.append(IMAGE)
    return found or _named(schema, known, lambda field: is_text(field.type) and field.name.lower() in _PATHS)


def _label_candidates(schema: Any, taken: set[str]) -> list[str]:
    found = _named(schema, taken, lambda field: can_be_labels(field.type) and is_label_name(field.name))
    return [LABEL] if LABEL in schema.names and LABEL not in taken else found


def is_label_name(name: str) -> bool:
    return name.lower() in _LABELS or name.lower().endswith(_LABEL_ENDS)


def _named(schema: Any, taken: tuple[str, ...] | set[str], fits: Callable[[Any], bool]) -> list[str]:
    return [field.name for field in schema if field.name not in taken and fits(field)]


def is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def holds_bytes(kind: Any) -> bool:
    """Encoded images: bytes, or a struct with them and perhaps a path."""
    if not pa.types.is_struct(kind):
        return is_binary(kind)
    fields = {field.name: field.type for field in kind}
    return is_binary(fields.get("bytes", pa.null())) and is_text(fields.get("path", pa.string()))


def _check_images(kind: Any, name: str, where: str) -> None:
    if not holds_bytes(kind) and not is_text(kind):
        raise DatasetError(f"{where}: column {name} is {kind}; {EXPECTED}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(name[:80] for name in names[:_SHOWN]) or "none") + more
