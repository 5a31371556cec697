"""`RandomSampler`: recipes drawn uniformly from the space."""

from __future__ import annotations

from collections.abc import Iterator

from autoslim.search.proposal import Proposal
from autoslim.search.samplers.base import SamplerContext, SamplingRequest
from autoslim.search.space.space import Uniform


class RandomSampler:
    """Random search. Controls are drawn with it whatever the search's sampler is."""

    def __init__(self, context: SamplerContext) -> None:
        self._builder = context.builder

    def candidates(self, request: SamplingRequest) -> Iterator[Proposal]:
        suggest = Uniform(f"{self._builder.seed}:{request.number}")
        while True:
            sample = self._builder.sample(suggest, request.assignment.methods, request.assignment.models)
            yield self._builder.build(request.number, request.assignment, sample)
