"""What a user asks for: one model behind the command line, `job.yaml`, HTTP and Python."""

from autoslim.config.issues import InfeasibleSpecError, SpecError, ValidationIssue, flag_of
from autoslim.config.job_spec import JobSpec
from autoslim.config.placement import Placement
from autoslim.config.reading import parse_yaml, read_json, read_mapping, read_plain, read_text, read_yaml

__all__ = [
    "InfeasibleSpecError",
    "JobSpec",
    "Placement",
    "SpecError",
    "ValidationIssue",
    "flag_of",
    "parse_yaml",
    "read_json",
    "read_mapping",
    "read_plain",
    "read_text",
    "read_yaml",
]
