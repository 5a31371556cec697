"""Proposes recipes and sorts their results. Trains nothing, and knows of neither Ray nor MLflow."""

from autoslim.search.explanation import Reason, knee_point, offers, reason
from autoslim.search.feasibility import Corner, Reach, reach
from autoslim.search.proposer import Proposal, Proposer
from autoslim.search.pruners.base import Scheduler, make_scheduler
from autoslim.search.refinement import final_recipes
from autoslim.search.selection import AgainstControl, against_control, cheaper_and_better, choose, fills, outclassed
from autoslim.search.space.space import Space
from autoslim.search.space.yaml_file import load_space, parse_space, space_names
from autoslim.search.stopping import Limits, enough, search_limits
from autoslim.search.workload import Expected, expected_work

__all__ = [
    "AgainstControl",
    "Corner",
    "Expected",
    "Limits",
    "Proposal",
    "Proposer",
    "Reach",
    "Reason",
    "Scheduler",
    "Space",
    "against_control",
    "cheaper_and_better",
    "choose",
    "enough",
    "expected_work",
    "fills",
    "final_recipes",
    "knee_point",
    "load_space",
    "make_scheduler",
    "offers",
    "outclassed",
    "parse_space",
    "reach",
    "reason",
    "search_limits",
    "space_names",
]
