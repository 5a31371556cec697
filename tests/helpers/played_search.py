"""A search without a cluster: trials answer with a number made from their recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from autoslim.core.recipe import Recipe
from autoslim.core.result import TrialResult
from autoslim.core.shape import ViTShape
from autoslim.methods.base import Method
from autoslim.search import Proposal, Proposer, Space
from autoslim.search.samplers.optuna_replay import Replay, replay

Finish = Callable[..., TrialResult]
Make = Callable[..., Proposer]


def replayer(space: Space, methods: Mapping[str, Method], shape: ViTShape) -> Callable[[Recipe], Replay | None]:
    return lambda recipe: replay(recipe, space, methods, shape)


def play(proposer: Proposer, finished: Finish, trials: int) -> Iterator[tuple[Proposal, list[TrialResult]]]:
    """A search whose trials answer with a number made from their recipe."""
    history: list[TrialResult] = []
    for number in range(trials):
        proposal = proposer.propose(number, history)
        yield proposal, list(history)
        history.append(finished(proposal, accuracy=int(proposal.recipe.key, 16) % 1000 / 1000))
