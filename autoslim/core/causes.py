"""What has caused an error."""

from __future__ import annotations

from collections.abc import Iterator


def cause_chain(error: BaseException, *, contexts: bool = False) -> Iterator[BaseException]:
    """The error and its causes, the nearest first; with `contexts` also the errors during whose handling one was raised.

    Ray keeps what a task raised in the attribute `cause`, Python in `__cause__`; a chain that crossed machines has both.
    """
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop(0)
        # Compared by identity: an error may define equality, and a chain may have a circle, since Ray raises an error from itself.
        if link is not None and all(link is not known for known in seen):
            seen.append(link)
            yield link
            pending += [getattr(link, "cause", None), link.__cause__ or (link.__context__ if contexts else None)]
