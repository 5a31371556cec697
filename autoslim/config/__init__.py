"""What a user asks for: one model behind the command line, `job.yaml`, HTTP and Python."""

from autoslim.config.issues import InfeasibleSpecError, SpecError, ValidationIssue, flag_of
from autoslim.config.job_spec import JobSpec
from autoslim.config.placement import Placement, TrialPlacement
from autoslim.config.reading import parse_yaml, read_json, read_mapping, read_plain, read_text, read_yaml, validated
from autoslim.config.setting import PREFIX, Commands, Group, Setting, flag_name, settings_of, variable_name

__all__ = [
    "PREFIX",
    "Commands",
    "Group",
    "InfeasibleSpecError",
    "JobSpec",
    "Placement",
    "Setting",
    "SpecError",
    "TrialPlacement",
    "ValidationIssue",
    "flag_name",
    "flag_of",
    "parse_yaml",
    "read_json",
    "read_mapping",
    "read_plain",
    "read_text",
    "read_yaml",
    "settings_of",
    "validated",
    "variable_name",
]
