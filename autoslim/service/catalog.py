"""Resolves the names and paths of a spec to those that a worker may open: built in, registered, or under the operator's roots.

A path is resolved first, symbolic links included, and then has to be under a root. The message for one that is not is the same whether
or not it exists, so that it does not tell which files there are.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoslim.config import JobSpec
from autoslim.config.dense_models import entries_of
from autoslim.config.issues import Place, ValidationIssue, short_repr, unknown
from autoslim.core.confine import confined
from autoslim.core.job import WEIGHT_FILES
from autoslim.service.settings import ServiceSettings
from autoslim.webhook.addresses import AllowedHosts

BUILTIN = ("digits",)
"""Data sets that need no files."""

MODEL_FILES = ("config.json", "model.safetensors")
"""What is read of a model's folder."""

_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")

_OTHER_DATA = (
    "; whoever runs the service allows others with `autoslim serve --data-root FOLDER`, or by a name in the file of `--config`"
)
"""What a user can ask the operator for, who may be the user."""


class NotAllowedError(Exception):
    """A name or path that the operator does not allow; its text is the issue's."""


class Catalog:
    """The models, weights and data sets that the operator allows."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._datasets = {str(name): str(path.resolve()) for name, path in settings.datasets.items()}
        self._data_roots = [root.resolve() for root in settings.data_roots]
        self._model_roots = [root.resolve() for root in settings.model_roots]
        self._patterns, self._pretrained = settings.models, settings.pretrained
        self._webhook_hosts = AllowedHosts(settings.webhook_allow)

    def datasets(self) -> list[str]:
        return [*BUILTIN, *self._datasets]

    def allowed_models(self, names: Sequence[str]) -> list[str]:
        """The timm names among `names` that match one of the operator's patterns."""
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)]

    def resolve(self, spec: JobSpec, models: Sequence[str] | None) -> tuple[JobSpec, list[ValidationIssue]]:
        """The spec with absolute paths, and its issues; `models` are all timm names. Where they are not known (None), any word that
        matches the operator's patterns will do.
        """
        finders: dict[str, Callable[[str], str]] = {"data": self._data, "probe": self._data, "weights": self._weights}
        finders["token_labels"] = self._token_labels
        finders["model"] = functools.partial(self._model, models=models)
        finders["teacher"] = functools.partial(self._teacher, models=models, starts=entries_of(spec.model))
        changes: dict[str, str | tuple[str, ...]] = {}
        issues: list[ValidationIssue] = []
        for field, find in finders.items():
            value = getattr(spec, field)
            if value is None:
                continue
            found = {place: self._found(find, place, text, issues) for place, text in _places(field, value)}
            changes[field] = tuple(found.values()) if isinstance(value, tuple) else found[field,]
        return spec.model_copy(update=changes), issues

    def webhook_issues(self, spec: JobSpec) -> list[ValidationIssue]:
        """The host is compared here; where its name leads is compared when a notification is sent."""
        problem = None if spec.webhook is None else self._webhook_hosts.problem_with(spec.webhook)
        return [] if problem is None else [ValidationIssue(place=("webhook",), problem=problem)]

    @staticmethod
    def _found(find: Callable[[str], str], place: Place, text: str, issues: list[ValidationIssue]) -> str:
        """What `find` resolves a text to; the text itself where that is an issue, which is added to `issues`."""
        try:
            return find(text)
        except NotAllowedError as error:
            issues.append(ValidationIssue(place=place, problem=str(error)))
            return text

    def public_spec(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `resolve` for data sets: their registered name instead of the operator's path."""
        names = {path: name for name, path in self._datasets.items()}
        return {**spec, **{field: names.get(spec[field], spec[field]) for field in ("data", "probe") if spec.get(field)}}

    def _data(self, text: str) -> str:
        if text in BUILTIN:
            return text
        if text in self._datasets:
            return self._datasets[text]
        if "/" not in text and not self._data_roots:
            raise NotAllowedError(unknown(text, self.datasets()) + _OTHER_DATA)
        hint = f"allowed: {', '.join(self.datasets())}" + (", or a path under a data root" if self._data_roots else _OTHER_DATA)
        return _under(text, self._data_roots, hint)

    def _token_labels(self, text: str) -> str:
        """A folder under a data root; without a slash it is a column of the data."""
        return _under(text, self._data_roots, "allowed: a column, or a path under a data root") if "/" in text else text

    def _model(self, text: str, models: Sequence[str] | None) -> str:
        if "/" in text or text.startswith("."):
            folder = _under(text, self._model_roots, "allowed: a timm name" + self._or_root())
            if not _is(Path.is_file, Path(folder, "config.json")):
                raise NotAllowedError(f"is {short_repr(text)}; allowed: a folder in timm's hub format, which has a config.json")
            self._refuse_links(folder, text)
            return folder
        if not _TIMM_NAME.fullmatch(text):
            raise NotAllowedError(f"is {short_repr(text)}; allowed: a timm name" + self._or_root())
        name = text.partition(".")[0]
        allowed = self.allowed_models([name] if models is None else models)
        if name not in allowed:
            raise NotAllowedError(unknown(name, allowed, among="a name from /v1/capabilities" + self._or_root()))
        return text

    def _teacher(self, text: str, models: Sequence[str] | None, starts: Sequence[str]) -> str:
        """One of the spec's own models, another one with pretrained weights, or a file with weights."""
        if text.endswith(WEIGHT_FILES):
            return self._weights(text)
        found = self._model(text, models)
        if not self._pretrained and "/" not in found and text not in starts:
            raise NotAllowedError(
                f"is {short_repr(text)}, which has pretrained weights; allowed: one of the models" + self._or_root()
            )
        return found

    def _weights(self, text: str) -> str:
        if text == "scratch":
            return text
        if text == "pretrained":
            if not self._pretrained:
                raise NotAllowedError("is 'pretrained'; allowed: scratch" + self._or_root())
            return text
        path = _under(text, self._model_roots, "allowed: pretrained, scratch" + self._or_root())
        if not _is(Path.is_file, Path(path)) or not path.endswith(WEIGHT_FILES):
            raise NotAllowedError(f"is {short_repr(text)}; allowed: a file that ends in {', '.join(WEIGHT_FILES)}")
        return path

    def _refuse_links(self, folder: str, text: str) -> None:
        """A link of a model hub's cache leads to another folder beneath the root; none may leave the roots."""
        for file in (Path(folder, name) for name in MODEL_FILES):
            if all(confined(file, root) is None for root in self._model_roots):
                raise NotAllowedError(
                    f"is {short_repr(text)}, whose {file.name} is a link that leads out of the model roots; copy the file"
                )

    def _or_root(self) -> str:
        return ", or a path under a model root" if self._model_roots else ""


def _places(field: str, value: str | tuple[str, ...]) -> Iterator[tuple[Place, str]]:
    """The texts of a field, each with its place in the spec."""
    if isinstance(value, str):
        yield (field,), value
    else:
        yield from (((field, index), text) for index, text in enumerate(value))


def _under(text: str, roots: Sequence[Path], hint: str) -> str:
    """A relative path is tried under each root in turn; the first that exists wins."""
    inside = [path for root in roots if (path := confined(root / text, root)) is not None and path != root]
    if not inside:
        raise NotAllowedError(f"is {short_repr(text)}; {hint}")
    found = next((path for path in inside if _is(Path.exists, path)), None)
    if found is None:
        raise NotAllowedError(f"is {short_repr(text)}, which does not exist; {hint}")
    return str(found)


def _is(check: Callable[[Path], bool], path: Path) -> bool:
    """False also for what the file system refuses, such as names that are too long for it or folders that may not be entered."""
    try:
        return check(path)
    except OSError:
        return False
