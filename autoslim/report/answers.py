"""`answers.parquet` in a model's folder: what the dense and the slimmed model answered for each test image.

A row an image, in the order of the split; classes by their place in the model's `config.json`. N images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from autoslim.errors import WeightsError

FILE = "answers.parquet"

_SCHEMA = pa.schema(
    [
        pa.field("label", pa.int32(), metadata={"description": "the image's class"}),
        pa.field("dense", pa.int32(), metadata={"description": "the dense model's answer"}),
        pa.field("slimmed", pa.int32(), metadata={"description": "the slimmed model's answer"}),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Places of classes, int64 (N,) each."""

    label_N: Tensor
    dense_N: Tensor
    slimmed_N: Tensor


def write_answers(folder: Path, *, labels: Sequence[int], dense: Sequence[int], slimmed: Sequence[int]) -> None:
    columns = [pa.array(column, pa.int32()) for column in (labels, dense, slimmed)]
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), folder / FILE)


def read_answers(folder: Path) -> Answers | None:
    """None for a model of features, and for one that an earlier version has delivered.

    Raises:
        WeightsError: for a file that is not what `write_answers` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, columns=_SCHEMA.names)
        label_N, dense_N, slimmed_N = (torch.from_numpy(table[name].to_numpy().astype("int64")) for name in _SCHEMA.names)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise WeightsError(f"{path} does not hold the answers of two models: {error}") from error
    return Answers(label_N=label_N, dense_N=dense_N, slimmed_N=slimmed_N)
