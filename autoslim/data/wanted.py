"""`Wanted`: what is read of a source that holds more than one kind of image or label."""

from __future__ import annotations

import dataclasses
from typing import Self

from autoslim.core.job import DatasetSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Columns are guessed where they are None and there is one candidate; `config` is needed only where there are several configurations.

    Where it is not `labelled`, images are all that is read. `token_labels` is as in `DatasetSpec`.
    """

    labelled: bool = True
    image_column: str | None = None
    label_column: str | None = None
    config: str | None = None
    token_labels: str | None = None

    @property
    def token_label_column(self) -> str | None:
        """The column of the labels of patches, where they are in one."""
        return None if self.token_labels is None or "/" in self.token_labels else self.token_labels

    @property
    def token_label_folder(self) -> str | None:
        """The folder of the labels of patches, or its URI, where they are in one."""
        return self.token_labels if self.token_labels is not None and "/" in self.token_labels else None

    @classmethod
    def of(cls, spec: DatasetSpec) -> Self:
        return cls(
            labelled=spec.labelled,
            image_column=spec.image_column,
            label_column=spec.label_column,
            config=spec.config,
            token_labels=spec.token_labels,
        )
