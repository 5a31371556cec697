"""`slim`: one model by given methods and knobs, without a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim.api.given import Data, Model, given_inputs
from autoslim.api.settings import check_names, new_job, with_settings
from autoslim.config import Commands
from autoslim.core.folder_lock import FolderUse, refuse_other_use
from autoslim.errors import RequestError
from autoslim.export.artifact import load
from autoslim.progress.choice import python_display
from autoslim.progress.display import CallDisplay
from autoslim.report.text_table import html_table
from autoslim.slimming.asked import Asked, check_methods, knobs_by_method, slim_job_of
from autoslim.slimming.follow import run_slim
from autoslim.slimming.run import GIVEN, Slimmed
from autoslim.slimming.slimmed_rows import slimmed_line, slimmed_rows

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True)
class SlimResult:
    """A slimmed model; `measured` has its accuracies, FLOPs and parameters beside the dense model's."""

    measured: Slimmed

    @property
    def folder(self) -> Path:
        """The output folder, which is a model folder for `autoslim.load`."""
        return Path(self.measured.folder)

    def model(self) -> nn.Module:
        """The slimmed model, in eval mode on the CPU."""
        return load(self.folder)

    def _repr_html_(self) -> str:
        heads, *rows = slimmed_rows(self.measured)
        return f"{html_table(heads, rows)}<p>{escape(slimmed_line(self.measured))}<br>{escape(str(self.folder))}</p>"

    def __repr__(self) -> str:
        return f"SlimResult({str(self.folder)!r}, {slimmed_line(self.measured)})"


@with_settings(Commands.SLIM, placement=False)
def slim(
    model: Model,
    data: Data,
    flops: str | int | None = None,
    *,
    method: str | Sequence[str],
    knobs: Mapping[str, Any] | None = None,
    first: str | None = None,
    distillation: float | None = None,
    output: str | PathLike[str] = "runs/slim",
    threads: int | None = None,
    progress: str = "auto",
    write: Callable[[str], None] | None = None,
    **settings: Any,
) -> SlimResult:
    """Slims a model by one method, or by several in a row, in this process: `autoslim slim` in Python. Needs no Ray.

    Args:
        model: A timm name, a folder in timm's hub format, or a timm model with its weights.
        data: As on the command line, or a torch `Dataset` of (image, label) without augmentation, or a mapping from `train`, `validation`
            and `test` to Datasets. Without a validation or test split, one is split off `train`.
        flops: The budget, such as `2.3G` or `50%`, in multiply-accumulates an image.
        method: A slimming method, or several in order.
        knobs: Knobs of the methods by name, or as `method.name`. Those that decide the FLOPs are adjusted to the budget.
        first: FLOPs after the first of several methods. By default the reduction is split evenly in log FLOPs.
        distillation: Weight of the dense teacher's soft labels, 0 to 1.
        output: A new folder, or one where the same call was interrupted: it continues there.
        threads: Of the training; by default the CPUs that are idle, and with a `latency` torch's own number.
        progress: `auto` shows bars in a notebook and elsewhere a line an event on stderr; `live`, `plain` and `none` as on the command
            line.
        write: Takes the lines instead.
        settings: Those of the command line, under their names with underscores: `epochs=5`, `from_scratch=True`.

    Raises:
        AutoslimError: as the command line reports it; finished epochs are kept.
    """
    display = python_display(progress) if write is None else CallDisplay(write)
    folder, methods = Path(output).absolute(), [method] if isinstance(method, str) else list(method)
    check_methods(methods, name=_as_it_is)
    check_names(settings, Commands.SLIM, placement=False)
    if flops is not None and not isinstance(flops, str | int | float):
        raise RequestError(f"flops is {flops!r}; allowed: one budget")
    own = knobs_by_method([_asked(name, value) for name, value in (knobs or {}).items()], methods)
    # Before the inputs are written: a folder that is something else's is left as it is.
    refuse_other_use(folder, FolderUse.SLIM)
    with given_inputs(folder, folder / GIVEN) as given:
        values = {
            "model": given.model(model),
            "data": given.data(data),
            **({} if flops is None else {"flops": flops}),
            **settings,
        }
        searched = new_job(values, folder)
        job = slim_job_of(searched, knobs=own, first=first, distillation=distillation, name=_as_it_is)
        with display:
            return SlimResult(run_slim(job, folder, display, threads=threads, begin=given.place))


def _as_it_is(name: str) -> str:
    return name


def _asked(name: str, value: Any) -> Asked:
    owner, _, knob = name.rpartition(".")
    return Asked(owner=owner, knob=knob, value=value, written=f"knobs has {name!r}")
