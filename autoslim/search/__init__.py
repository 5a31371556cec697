"""Proposes recipes and sorts their results. Trains nothing, and knows of neither Ray nor MLflow."""

from autoslim.search.ending import Limits, enough, search_limits
from autoslim.search.expected import Expected, expected_work
from autoslim.search.final import final_recipes
from autoslim.search.front import AgainstControl, against_control, cheaper_and_better, choose, fills, outclassed
from autoslim.search.proposer import Proposal, Proposer
from autoslim.search.reach import Corner, Reach, reach
from autoslim.search.reason import Reason, knee_point, offers, reason
from autoslim.search.scheduler import Scheduler, make_scheduler
from autoslim.search.space import Space
from autoslim.search.space_file import load_space, parse_space, space_names

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
