"""`Wanted`: what is read of a source that holds more than one kind of image or label."""

from __future__ import annotations

import dataclasses
from typing import Self

from autoslim.core.job import DatasetSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Columns are guessed where they are None and there is one candidate; `config` is needed only where there are several configurations.

    Where it is not `labelled`, images are all that is read.
    """

    labelled: bool = True
    image_column: str | None = None
    label_column: str | None = None
    config: str | None = None

    @classmethod
    def of(cls, spec: DatasetSpec) -> Self:
        return cls(labelled=spec.labelled, image_column=spec.image_column, label_column=spec.label_column, config=spec.config)
