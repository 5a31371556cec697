"""The tables of the reference pages as Markdown, made from the code that they describe: each function is a marker's name.

Nothing here knows a flag, a field or an exit code by itself; only what the numbers 0 and 130 mean has no home in the code.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from notebook_page import notebook

ROOT = Path(__file__).parents[2]


def cell(text: object) -> str:
    """One line that breaks no table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Columns in which no row says anything are left out."""
    names, cells = list(head), [[cell(value) for value in row] for row in rows]
    kept = [place for place in range(len(names)) if any(row[place] for row in cells)]
    lines = [" | ".join(names[place] for place in kept), "|".join("---" for _ in kept)]
    lines += [" | ".join(row[place] for place in kept) for row in cells]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return cell(inspect.cleandoc(docstring or "").partition("\n\n")[0])


def value_of(value: object) -> str:
    """A default as a reader writes it; none is an empty cell."""
    if value in (None, "", (), [], {}) or value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple | list):
        return f"`{','.join(map(str, value))}`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


# The command line


def cli() -> str:
    """Every command by its panel, with arguments, flags, environment variables, defaults and help."""
    import typer

    from autoslim.cli.app import app

    panels: dict[str, list[str]] = {}
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        members = (
            {f"{name} {inner}": each for inner, each in command.commands.items()}
            if hasattr(command, "commands")
            else {name: command}
        )
        panels.setdefault(getattr(command, "rich_help_panel", "") or "Other", []).extend(
            _command(*item) for item in members.items()
        )
    return "\n".join(f"## {panel}\n\n" + "\n".join(commands) for panel, commands in panels.items())


def _command(name: str, command: Any) -> str:
    about, *more = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [cell(part.removeprefix("Example:")) for part in more if part.startswith("Example:")]
    prose = [part for part in more if not part.startswith("Example:")]
    lines = [f"### autoslim {name}", "", about, "", *[f"{part}\n" for part in prose]]
    if examples:
        lines += ["```sh", *examples, "```", ""]
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    if arguments:
        lines.append(
            table(("Argument", "Meaning"), ((f"`{param.metavar or param.name.upper()}`", param.help) for param in arguments))
        )
    if options:
        rows = (
            (_flag(param), param.help, _type(param), _default(param), f"`{param.envvar}`" if param.envvar else "")
            for param in options
        )
        lines.append(table(("Flag", "Meaning", "Type", "Default", "Variable"), rows))
    return "\n".join(lines)


def _flag(param: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))


def _type(param: Any) -> str:
    if param.is_flag:
        return ""
    words = {"str": "text", "int": "integer", "float": "number", "Path": "path", "path": "path"}
    name = param.bare_type().removeprefix("list[").removesuffix("]")
    text = words.get(name, name)
    return f"{text}, repeatable" if param.multiple else text


def _default(param: Any) -> str:
    return "" if param.is_flag and param.default in (None, False) else value_of(param.default)


# What a request may say


def job_spec() -> str:
    """Every setting of a job and of where it runs, a table for each group."""
    from autoslim.config.reference import reference

    settings, parts = reference(), []
    for group in dict.fromkeys(row.group for row in settings):
        rows = (
            (
                f"`{row.name}`",
                row.help,
                row.type,
                "required" if row.needed else _literal(row.default),
                row.allowed,
                f"`{row.flag}`" if row.flag else "",
                "may change" if row.resumable else "kept",
            )
            for row in settings
            if row.group == group
        )
        parts.append(f"## {group}\n\n" + table(("Field", "Meaning", "Type", "Default", "Allowed", "Flag", "On resume"), rows))
    return "\n".join(parts)


def _literal(default: str) -> str:
    """As code where it is a value, as words where it is a sentence."""
    return default if " " in default or not default else f"`{default}`"


def field(name: str) -> str:
    """How `JobSpec` declares a field, as it is written there."""
    source = (ROOT / "autoslim" / "config" / "job_spec.py").read_text()
    declared = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
    )
    return f"```python\n{ast.get_source_segment(source, declared)}\n```\n".replace("\n    ", "\n")


def resumable() -> str:
    """The flags that a resumed search may change, as an enumeration."""
    from autoslim.config.reference import reference

    flags = [f"`{row.flag}`" for row in reference() if row.resumable and row.flag]
    return f"These settings may change on resume: {', '.join(flags[:-1])} and {flags[-1]}. Everything else stays as the search began.\n"


# What a slimmed model says of itself


def config_json() -> str:
    """`SlimConfig` and all that it holds, a section for each."""
    from autoslim.export.artifact import SlimConfig

    todo, done, parts = [SlimConfig], [], []
    while todo:
        kind = todo.pop(0)
        if kind in done:
            continue
        done.append(kind)
        hints = typing.get_type_hints(kind)
        rows = []
        for field in dataclasses.fields(kind):
            inner = [each for each in _classes(hints[field.name]) if dataclasses.is_dataclass(each)]
            todo += [each for each in inner if each not in done]
            rows.append((f"`{field.name}`", _annotation(hints[field.name]), _field_default(field)))
        title = "config.json" if kind is SlimConfig else kind.__name__
        about = inspect.cleandoc(kind.__doc__ or "")
        parts.append(
            f"## {title}\n\n{about if not about.startswith(kind.__name__ + '(') else ''}\n\n"
            + table(("Field", "Type", "Default"), rows)
        )
    return "\n".join(parts)


def _field_default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return "`null`" if field.default is None else value_of(field.default)
    return "" if field.default_factory is dataclasses.MISSING else "empty"


def _classes(annotation: Any) -> Iterable[Any]:
    inner = typing.get_args(annotation)
    if not inner:
        return [annotation]
    return [each for argument in inner for each in _classes(argument)]


def _annotation(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_annotation(each) for each in inner)
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"list of {_annotation(inner[0])}"
        return f"list of {len(inner)} {_annotation(inner[0])}"
    if origin is dict:
        return f"mapping of {_annotation(inner[0])} to {_annotation(inner[1])}"
    if annotation is type(None):
        return "null"
    if dataclasses.is_dataclass(annotation):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"  # type: ignore[union-attr]
    return {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


# Exit codes

MEANINGS = {
    0: "Every budget has a model; of `reproduce`, the weights are the same to the bit.",
    1: "The job failed or was cancelled, or `doctor` found a problem.",
    2: "The request cannot be carried out. The message says which part, and what is allowed.",
    3: "A budget cannot be reached, or no trial was completed within it.",
    4: "Ray, the database, MLflow or the service cannot be reached, or the service refuses the key.",
    5: "`reproduce` has made the model again, with other weights. The report says by how much they and the accuracy differ.",
    130: "Interrupted. `search --resume` resumes; a job of the service continues by itself.",
}
"""By the code. A code of the errors that is missing here breaks the build."""


def exit_codes() -> str:
    """Each code, what it means, and the errors that end with it."""
    from autoslim import errors

    kinds = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.AutoslimError)]
    by_code: dict[int, list[type[errors.AutoslimError]]] = {code: [] for code in MEANINGS}
    for kind in sorted(kinds, key=lambda each: inspect.getsourcelines(each)[1]):
        by_code[kind.exit_code].append(kind)
    codes = table(("Code", "Meaning"), ((code, MEANINGS[code]) for code in by_code))
    rows = ((f"`{kind.__name__}`", kind.exit_code, sentence(kind.__doc__)) for found in by_code.values() for kind in found)
    return f"{codes}\n## The errors behind them\n\n" + table(("Error", "Code", "Meaning"), rows)


# Methods and spaces


def knobs(method: str) -> str:
    """A method's knobs; a search space narrows their ranges."""
    from autoslim.methods import METHODS

    return _knobs(METHODS[method].ranges)


def training_settings() -> str:
    """What a space may say under `training`."""
    from autoslim.search.space.space import TRAINING

    return _knobs(TRAINING)


def _knobs(ranges: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", knob.help + ("; moved by the solver" if _moved(knob) else ""), _range(knob), _knob_default(knob))
        for name, knob in ranges.items()
    ]
    return table(("Knob", "Meaning", "Range", "Default"), rows)


def _moved(knob: Any) -> bool:
    return bool(knob.cost_sign)


def _range(knob: Any) -> str:
    if not knob.searched:
        return "not searched" if knob.kind == "choice" else "set by the solver"
    if knob.kind == "choice":
        return ", ".join(value_of(choice) for choice in knob.choices)
    what = {"layer": "share of the depth, ", "int": "integer, "}.get(knob.kind, "")
    return f"{what}{knob.low:g} to {knob.high:g}" + (", logarithmic" if knob.log else "")


def _knob_default(knob: Any) -> str:
    return f"`{knob.default:.3g}`" if isinstance(knob.default, float) else value_of(knob.default)


def spaces() -> str:
    """The search spaces that come with autoslim, in their own words."""
    import yaml

    files = sorted((ROOT / "search_spaces").glob("*.yaml"), key=lambda path: (path.stem != "default", path.stem))
    return table(
        ("Space", "Description"), ((f"`{path.stem}`", yaml.safe_load(path.read_text())["description"]) for path in files)
    )


def models() -> str:
    """What `autoslim models` answers: every vision transformer of timm, with the methods that can slim it."""
    from autoslim.cli.models import verdict
    from autoslim.slimming.supported_models import supported_models

    return table(("Model", "Methods"), ((f"`{model.name}`", verdict(model)) for model in supported_models()))


def measured(method: str) -> str:
    """The method's rows of the comparison on CIFAR-10, options of its own included, with the dense model and baselines for scale.

    They are those of the page's first table, under its own budgets: the page has one of an earlier version, too, whose budgets differ.
    """
    text = (ROOT / "docs" / "benchmarks" / "methods.md").read_text()
    found = re.search(r"^(\| test top-1, %.*\n\|[-|]+\n)((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert found is not None
    rows = {line.split("|")[1].strip(): line for line in found[2].splitlines()}
    own = [name for name in rows if name == method or name.startswith(f"{method}_")]
    dense = next(name for name in rows if name.startswith("dense"))
    scale = [name for name in (dense, "random_tokens", "tome", "l2_width", "taylor_width") if name not in own]
    assert own, f"neither {method} nor an option of it is in a row of the comparison"
    picked = "\n".join(rows[name] for name in (*own, *scale))
    return (
        f"{found[1]}{picked}\n\nOn CIFAR-10, 3 epochs over 10,000 images, at these shares of the FLOPs. "
        "[All methods beside the baselines](../benchmarks/methods.md) has the command, the seeds and the intervals, and says which cells "
        "are empty because they have not been run, and which because they cannot be reached.\n"
    )


def method_members() -> str:
    """The members of `Method`, from the table in its docstring."""
    from autoslim.methods import Method

    rows = re.findall(r"^ *`(\w+)` {2,}(\S.*?) {2,}(\S.*)$", Method.__doc__ or "", flags=re.MULTILINE)
    return table(("Member", "Default", "What it is for"), ((f"`{name}`", default, meaning) for name, default, meaning in rows))


def smallest_method() -> str:
    """The example of a method, which the tests run, as a block of code."""
    text = (ROOT / "docs" / "developing" / "smallest_method.py").read_text()
    return f'```python title="docs/developing/smallest_method.py"\n{text}```\n'


# The service


def routes() -> str:
    """Every route of the API with its parameters, from the OpenAPI document."""
    document = json.loads((ROOT / "autoslim" / "service" / "openapi.json").read_text())
    rows = []
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            names = [each["name"] for each in operation.get("parameters", ()) if each["in"] != "path"]
            rows.append((f"`{verb.upper()} {path}`", ", ".join(f"`{name}`" for name in names), operation.get("description", "")))
    return table(("Route", "Parameters", "What it does"), rows)


def service_settings() -> str:
    """The fields of the service's configuration file and of its `limits`."""
    from autoslim.service import settings

    return f"{_fields(settings.ServiceSettings)}\n### limits\n\n{_fields(settings.RequestLimits)}"


def driver_settings() -> str:
    """The settings of a driver; each is an environment variable."""
    from workers.service.settings import DriverSettings

    return _fields(DriverSettings)


def _fields(model: Any) -> str:
    rows = []
    for name, field in model.model_fields.items():
        default = (
            ""
            if field.is_required() or field.default_factory or isinstance(field.default, model.__mro__[1])
            else value_of(field.default)
        )
        rows.append((f"`{name}`", "" if default in ("`*`", "") and name == "limits" else default, field.description or ""))
    return table(("Field", "Default", "Meaning"), rows)


def replies() -> str:
    """What the Python client returns, a table for each class."""
    from autoslim.client import replies as module

    kinds = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, module.Reply) and each is not module.Reply
    ]
    parts = []
    for kind in kinds:
        rows = (
            (
                f"`{name}`",
                _plain(field.annotation),
                "" if field.is_required() or isinstance(field.default, module.Reply) else value_of(field.default),
            )
            for name, field in kind.model_fields.items()
        )
        parts.append(
            f"### {kind.__name__}\n\n{inspect.cleandoc(vars(kind).get('__doc__') or '')}\n\n{table(('Field', 'Type', 'Default'), rows)}"
        )
    return "\n".join(parts)


def result_fields() -> str:
    """What is measured of a trial, as callbacks, tables and replies have it."""
    from autoslim.core.result import measurement_fields

    return table(("Field", "Meaning"), ((f"`{name}`", f"{about}.") for name, (_, about) in measurement_fields().items()))


def _plain(annotation: Any) -> str:
    """A type as it is written, without the modules that it comes from."""
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return f"`{re.sub(r'([a-z_]+[.])+', '', text).replace(' | ', ' or ')}`"


def client_errors() -> str:
    """What the Python client raises."""
    from autoslim.client import errors

    kinds = [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and each.__module__ == errors.__name__ and each.__name__.endswith("Error")
    ]
    return table(
        ("Error", "Meaning", "Is a"),
        (
            (f"`{kind.__name__}`", sentence(kind.__doc__), ", ".join(f"`{base.__name__}`" for base in kind.__bases__))
            for kind in kinds
        ),
    )


def problem_codes() -> str:
    """The stable codes of the API's problems, and what the Python client raises for them."""
    from autoslim.client.problem import CODES

    return table(
        ("Code", "Raised by the client", "Meaning"),
        ((f"`{code}`", f"`{kind.__name__}`", sentence(kind.__doc__)) for code, kind in CODES.items()),
    )


PARTS: dict[str, Callable[..., str]] = {
    part.__name__: part
    for part in (
        *(cli, job_spec, field, resumable, config_json, exit_codes),
        *(knobs, training_settings, spaces, models, measured, result_fields, method_members, smallest_method),
        notebook,
        *(routes, service_settings, driver_settings, problem_codes, replies, client_errors),
    )
}
"""What a marker may name."""
