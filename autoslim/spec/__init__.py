"""What a user asks for: one model behind the command line, `job.yaml`, HTTP and Python."""

from autoslim.spec.faults import Fault, InfeasibleSpecError, SpecError, flag_of
from autoslim.spec.model import JobSpec
from autoslim.spec.placement import Placement
from autoslim.spec.reading import parse_yaml, read_json, read_mapping, read_plain, read_text, read_yaml

__all__ = [
    "Fault",
    "InfeasibleSpecError",
    "JobSpec",
    "Placement",
    "SpecError",
    "flag_of",
    "parse_yaml",
    "read_json",
    "read_mapping",
    "read_plain",
    "read_text",
    "read_yaml",
]
