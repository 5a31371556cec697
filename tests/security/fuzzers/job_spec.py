"""The job spec's parsers under Atheris: whatever the bytes, they are read or refused by a SpecError.

    python tests/security/fuzzers/job_spec.py -max_total_time=600 CORPUS

CORPUS is a folder of inputs to begin with, to which those that reach something new are added. An input that breaks the rule ends the run,
and is written into the current folder.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["autoslim.config", "yaml"]):
    from autoslim.config import SpecError, parse_yaml, read_json


def read(data: bytes) -> None:
    with contextlib.suppress(SpecError):
        spec = read_json(data)
        assert read_json(spec.model_dump_json()) == spec
    with contextlib.suppress(SpecError, UnicodeDecodeError):
        parse_yaml(data.decode(), source="job.yaml")


atheris.Setup(sys.argv, read)
atheris.Fuzz()
