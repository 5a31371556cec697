"""Everything autoslim raises on purpose.

AutoslimError
├── RequestError (ValueError)      the user can fix it: what was wrong, the value, what is allowed
│   ├── BudgetError                nothing in this space meets the budget; names the cheapest reachable
│   ├── UnsupportedModelError      says which part cannot be slimmed
│   ├── WeightsError               weights that cannot be had or must not be read
│   ├── DatasetError               file, row, what was expected
│   ├── SpaceError                 file, key, what is allowed
│   ├── OutputError                the output folder cannot be written
│   ├── SpecError                  `autoslim.config`: every field of a request that is wrong
│   ├── NotFoundError              nothing of this id, or nothing that this tenant may see
│   └── IdempotencyError           a key that was used for another request
├── TrialError                     this recipe went wrong; the search goes on
│   ├── DivergedError              the loss is not a finite number
│   └── InfeasibleError            this recipe cannot be run here (memory, or its budget)
├── MissingExtraError (ImportError) an optional dependency is not installed; names the command that installs it
├── ExportError                    a form that this model cannot be handed over in
├── ClusterError                   Ray or the database cannot be reached
├── LeaseLostError                 the job is another driver's now
└── JobError                       the job as a whole failed; carries the remote traceback
    └── TrialsFailedError          because its first trials all did
"""

from __future__ import annotations


class AutoslimError(Exception):
    """Base class; `exit_code` is the exit code of the command line."""

    exit_code = 1


class RequestError(AutoslimError, ValueError):
    """A request that cannot be carried out as it stands; the user can fix it."""

    exit_code = 2


class BudgetError(RequestError):
    """No plan in the search space meets the budget."""

    exit_code = 3


class UnsupportedModelError(RequestError):
    """A model, or a part of one, that no method can slim."""


class WeightsError(RequestError):
    """Weights that cannot be had, do not fit the model, or come in a form that may run code."""


class DatasetError(RequestError):
    """A data set that cannot be read, or whose splits and classes do not agree."""


class SpaceError(RequestError):
    """A search space that does not fit the methods' knobs."""


class OutputError(RequestError):
    """An output folder that cannot be written, is full, or belongs to another job."""


class NotFoundError(RequestError):
    """Nothing of this id, or nothing that this tenant may see."""


class IdempotencyError(RequestError):
    """An idempotency key that was used for another request."""


class TrialError(AutoslimError):
    """One recipe went wrong; the search goes on."""


class DivergedError(TrialError):
    """The loss or a weight is not a finite number."""


class InfeasibleError(TrialError):
    """The recipe cannot be run: it does not fit into memory, or cannot be solved onto its budget."""


class MissingExtraError(AutoslimError, ImportError):
    """A package that the base install leaves out; `autoslim[extra]` has it."""

    exit_code = 2

    def __init__(self, extra: str, purpose: str, *, package: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed; run: pip install 'autoslim[{extra}]'")
        self.extra, self.package = extra, package


class ExportError(AutoslimError):
    """A form that a model cannot be handed over in, and why."""


class ClusterError(AutoslimError):
    """Ray, the database or the cluster's storage cannot be reached."""

    exit_code = 4


class LeaseLostError(AutoslimError):
    """The job is another driver's now, or nobody's: whoever sees this ends without touching it."""


class JobError(AutoslimError):
    """The job failed; the message carries the remote traceback where there is one."""


class TrialsFailedError(JobError):
    """The first trials all failed; `error_class` names the last one's error."""

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def first_line(error: Exception) -> str:
    """What went wrong in one line; of an error that is not ours, its kind as well."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else "no reason given"
    return text if isinstance(error, AutoslimError) else f"{type(error).__name__}: {text}"
