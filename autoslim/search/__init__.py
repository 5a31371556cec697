"""Proposes recipes and sorts their results. Trains nothing, and knows of neither Ray nor MLflow."""

from autoslim.search.front import AgainstControl, against_control, cheaper_and_better, choose
from autoslim.search.proposer import SAMPLERS, Proposal, Proposer
from autoslim.search.reach import Corner, Reach, reach
from autoslim.search.scheduler import Scheduler, make_scheduler
from autoslim.search.space import Space
from autoslim.search.space_file import load_space, parse_space, space_names

__all__ = [
    "SAMPLERS",
    "AgainstControl",
    "Corner",
    "Proposal",
    "Proposer",
    "Reach",
    "Scheduler",
    "Space",
    "against_control",
    "cheaper_and_better",
    "choose",
    "load_space",
    "make_scheduler",
    "parse_space",
    "reach",
    "space_names",
]
