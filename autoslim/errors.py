"""All exceptions that autoslim raises by design.

AutoslimError
├── RequestError (ValueError)      the user can correct it: what was wrong, the value, what is allowed
│   ├── BudgetError                nothing in this space meets the budget; names the cheapest reachable
│   ├── UnsupportedModelError      says which part cannot be slimmed
│   ├── WeightsError               weights that cannot be found or must not be read
│   ├── DatasetError               file, row, what was expected
│   ├── SpaceError                 file, key, what is allowed
│   ├── OutputError                the output folder cannot be written
│   │   └── DiskFullError          because its disk is full, or another one that a trial needs
│   ├── StorageError               a URI of an object store: what is wrong with it, or why it cannot be read or written
│   ├── SpecError                  `autoslim.config`: every field of a request that is wrong
│   ├── NotFoundError              nothing of this id, or nothing that this tenant may see
│   ├── IdempotencyError           a key that was used for another request
│   └── QuotaError                 a tenant has as much in the queue as it may
├── TrialError                     one recipe failed; the search continues
│   ├── DivergedError              the loss is not a finite number
│   └── InfeasibleError            this recipe cannot be run here (memory, or its budget)
├── RankLostError                  a process of a trial on several GPUs was lost; the trial is tried again
├── PreemptedError                 a trial has to leave its node, and has written a checkpoint; it is no failure
├── MissingExtraError (ImportError) an optional dependency is not installed; names the command that installs it
├── DifferenceError                a model that was made again is not the same to the bit
├── ExportError                    a form that this model cannot be exported to
├── UnavailableError               Ray, the database, MLflow or the service cannot be reached; a later try may succeed
├── LeaseLostError                 another driver has taken over the job
└── JobError                       the job as a whole failed; carries the remote traceback
    └── TrialsFailedError          because all of its first trials failed
"""

from __future__ import annotations


class AutoslimError(Exception):
    """Base class; `exit_code` is the exit code of the command line."""

    exit_code = 1


class RequestError(AutoslimError, ValueError):
    """A request that cannot be carried out; the user can correct it."""

    exit_code = 2


class BudgetError(RequestError):
    """No plan in the search space meets the budget."""

    exit_code = 3


class UnsupportedModelError(RequestError):
    """A model, or a part of one, that no method can slim."""


class WeightsError(RequestError):
    """Weights that cannot be found, do not fit the model, or are in a format that may run code."""


class DatasetError(RequestError):
    """A data set that cannot be read, or whose splits and classes do not agree. With `flags` behind it the same command is carried out;
    there are none where the data set has to be mended."""

    def __init__(self, message: str, *, flags: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.flags = flags


class SpaceError(RequestError):
    """A search space that does not fit the methods' knobs."""


class OutputError(RequestError):
    """An output folder that cannot be written, is full, or belongs to another job."""


class DiskFullError(OutputError):
    """The disk of a folder that is written to is full."""


class StorageError(RequestError):
    """A URI of an object store that is not allowed, or a file or folder there that cannot be read or written. It names no credentials."""


class NotFoundError(RequestError):
    """Nothing of this id, or nothing that this tenant may see."""


class IdempotencyError(RequestError):
    """An idempotency key that was used for another request."""


class QuotaError(RequestError):
    """A tenant has as many jobs, or as much work, in the queue as the operator allows."""


class TrialError(AutoslimError):
    """One recipe failed; the search continues."""


class DivergedError(TrialError):
    """The loss or a weight is not a finite number."""


class InfeasibleError(TrialError):
    """The recipe cannot be run: it does not fit into memory, or no values of its knobs meet its budget."""


class RankLostError(AutoslimError):
    """One of the processes that train a trial together was lost or does not answer; another try resumes from the checkpoint."""


class PreemptedError(AutoslimError):
    """A trial has to leave its node, or its process was asked to end. Its checkpoint is written: another try goes on from here."""


class MissingExtraError(AutoslimError, ImportError):
    """A package that the base install leaves out; `autoslim[extra]` has it."""

    exit_code = 2

    def __init__(self, extra: str, purpose: str, *, package: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed; run: pip install 'autoslim[{extra}]'")
        self.extra, self.package = extra, package


class DifferenceError(AutoslimError):
    """A model was made again, and its weights are not the same to the bit."""

    exit_code = 5


class ExportError(AutoslimError):
    """A form that a model cannot be exported to, and why."""


class UnavailableError(AutoslimError):
    """Ray, the database, MLflow or the service cannot be reached; a later try may succeed."""

    exit_code = 4


class LeaseLostError(AutoslimError):
    """Another driver has taken over the job, or none has: the process that sees this ends without touching the job."""


class JobError(AutoslimError):
    """The job failed; the message carries the remote traceback where there is one."""


class StalledError(JobError):
    """A process that this one has started hung, and has ended itself (`StallWatch`). `stacks` says where its threads were."""

    def __init__(self, message: str, stacks: str) -> None:
        super().__init__(message)
        self.stacks = stacks


class TrialsFailedError(JobError):
    """All of the first trials failed; `error_class` is the class of the last one's error."""

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


def first_line(error: Exception) -> str:
    """The error's first line, at most 300 characters; with its class, unless it is an AutoslimError."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else "no reason given"
    return text if isinstance(error, AutoslimError) else f"{type(error).__name__}: {text}"
