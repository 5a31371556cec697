"""Proposes recipes and sorts their results. Trains nothing, and knows of neither Ray nor MLflow."""

from autoslim.search.estimate import DiskUse, Estimate, disk_use, estimate_work
from autoslim.search.explanation import Reason, knee_point, offers, reason
from autoslim.search.feasibility import CostRange, Feasibility, feasibility
from autoslim.search.proposer import Proposal, Proposer
from autoslim.search.pruners.base import Pruner, make_pruner
from autoslim.search.refinement import final_recipes
from autoslim.search.selection import AgainstControl, against_control, cheaper_and_better, choose, fills, outclassed
from autoslim.search.space.space import Space
from autoslim.search.space.yaml_file import load_space, parse_space, space_names
from autoslim.search.stopping import StoppingLimits, search_limits, stop_reason
from autoslim.search.workload import Workload, expected_work, most_work

__all__ = [
    "AgainstControl",
    "CostRange",
    "DiskUse",
    "Estimate",
    "Feasibility",
    "Proposal",
    "Proposer",
    "Pruner",
    "Reason",
    "Space",
    "StoppingLimits",
    "Workload",
    "against_control",
    "cheaper_and_better",
    "choose",
    "disk_use",
    "estimate_work",
    "expected_work",
    "feasibility",
    "fills",
    "final_recipes",
    "knee_point",
    "load_space",
    "make_pruner",
    "most_work",
    "offers",
    "outclassed",
    "parse_space",
    "reason",
    "search_limits",
    "space_names",
    "stop_reason",
]
