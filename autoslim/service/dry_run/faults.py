"""`SpecFault`: why a spec cannot be planned, as the planner answers it."""

from __future__ import annotations

from autoslim.config.issues import Place


class SpecFault(Exception):
    """A field of the spec, by its path, that is wrong; with `infeasible` a limit that nothing in the space can meet."""

    def __init__(self, place: Place, problem: str, *, infeasible: bool = False) -> None:
        super().__init__(problem)
        self.place, self.infeasible = place, infeasible
