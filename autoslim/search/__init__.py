"""Proposes recipes and sorts their results. Trains nothing, and knows of neither Ray nor MLflow."""

from autoslim.search.estimate import DenseCost, DiskUse, Estimate, disk_use, estimate_work
from autoslim.search.explanation import Explanation, explain, knee_point
from autoslim.search.feasibility import CostExtreme, Feasibility, feasibility
from autoslim.search.floor_explanation import explain_floor, why_missed
from autoslim.search.floor_target import FloorTarget, first_share, prior_shares
from autoslim.search.prior import PriorSize, load_prior
from autoslim.search.proposal import Proposal
from autoslim.search.proposer import Proposer
from autoslim.search.pruners import Pruner, make_pruner
from autoslim.search.refinement import refinement_recipes
from autoslim.search.selection import AgainstControl, against_control, outclassed
from autoslim.search.space.space import Space
from autoslim.search.space.yaml_file import load_space, parse_space, space_names
from autoslim.search.start import Start
from autoslim.search.stopping import StoppingLimits, search_limits, stop_reason
from autoslim.search.within_noise import WithinNoise, cheapest_within_noise
from autoslim.search.workload import Workload, expected_work, most_work

__all__ = [
    "AgainstControl",
    "CostExtreme",
    "DenseCost",
    "DiskUse",
    "Estimate",
    "Explanation",
    "Feasibility",
    "FloorTarget",
    "PriorSize",
    "Proposal",
    "Proposer",
    "Pruner",
    "Space",
    "Start",
    "StoppingLimits",
    "WithinNoise",
    "Workload",
    "against_control",
    "cheapest_within_noise",
    "disk_use",
    "estimate_work",
    "expected_work",
    "explain",
    "explain_floor",
    "feasibility",
    "first_share",
    "knee_point",
    "load_prior",
    "load_space",
    "make_pruner",
    "most_work",
    "outclassed",
    "parse_space",
    "prior_shares",
    "refinement_recipes",
    "search_limits",
    "space_names",
    "stop_reason",
    "why_missed",
]
