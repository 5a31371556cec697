"""`ModelFacts`: what tables of a search show of a delivered model. `export.artifact` reads the whole configuration, and imports PyTorch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from autoslim.core.record import Record
from autoslim.core.speed import SpeedReport
from autoslim.errors import RequestError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts(Record):
    """Fields of a `SlimConfig`, by their names there."""

    images: dict[str, int]
    speed: SpeedReport | None = None
    form_speed: SpeedReport | None = None

    @classmethod
    def read(cls, folder: Path) -> ModelFacts | None:
        """Those of the model in `folder`; None where there is none yet. Raises RequestError for a configuration that cannot be read."""
        path = folder / "config.json"
        if not path.is_file():
            return None
        try:
            config: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise RequestError(
                f"{path} is not valid JSON: {error}; delete the folder, and `autoslim pick` hands the model over again"
            ) from error
        return cls.from_dict({field.name: config[field.name] for field in dataclasses.fields(cls) if field.name in config})
