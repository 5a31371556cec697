"""The types of a spec's values: what each accepts, its message for what it does not, and its JSON Schema."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from autoslim.config.issues import short_repr
from autoslim.core.accuracy_goal import parse_least, percent_text
from autoslim.core.budget import Budget
from autoslim.core.byte_size import BYTE_SIZE_PATTERN, byte_size_text, parse_byte_size
from autoslim.core.constraints import CostLimits, parse_latency, parse_params
from autoslim.core.duration import DURATION_PATTERN, parse_duration
from autoslim.core.forms import FORM_NAMES, FormName
from autoslim.core.job import SPEED_MODES, SpeedMode
from autoslim.core.unreadable import parse_allowed
from autoslim.errors import StorageError
from autoslim.storage import StorageUri, is_uri

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A spec stays small: it is kept in a database row and sent with every answer about its job.
_ENTRIES, _CHARACTERS = 64, 256
_LITERAL = {"type": ["boolean", "integer", "number", "string", "null"], "maxLength": _CHARACTERS}
_IMAGE_SIZE = re.compile(r"([0-9]{1,6})(?:[xX]([0-9]{1,6}))?")
_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
_BUDGET_PATTERN = (
    rf"^ *({_NUMBER} *%|{_NUMBER}([Ee]\+?[0-9]{{1,2}})? *[KMGTkmgt]? *([Ff][Ll][Oo][Pp][Ss]?|[Mm][Aa][Cc][Ss]?)?) *$"
)
_PARAMS_PATTERN = r"^[1-9][0-9]{0,8}(\.[0-9]{1,3})?[KMGkmg]?$"
_LATENCY_PATTERN = r"^[1-9][0-9]{0,5}(\.[0-9]{1,3})?(us|ms|s)(@[1-9][0-9]{0,2})?$"
_LEAST_PATTERN = r"^(100%|[1-9][0-9]?(\.[0-9]{1,6})?%|0\.[0-9]{0,6}[1-9])$"
_UNREADABLE_PATTERN = r"^([0-9]{1,9}|([0-9]{1,2}(\.[0-9]*)?|100(\.0*)?) *%|0?\.[0-9]+|1\.0*)$"
_HOST_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_WEBHOOK = re.compile(rf"https?://{_HOST_LABEL}(\.{_HOST_LABEL}){{0,9}}(:{_PORT})?(/[!-\"$-~]{{0,1500}})?")


def _names_pattern(names: tuple[str, ...]) -> str:
    return f"^(none|({'|'.join(names)})(,({'|'.join(names)}))*)$"


def _no_control(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"is {short_repr(text)}; allowed: no control characters")
    return text


def without_credentials(text: str) -> str:
    """A path, a name, or a URI that is allowed. Raises ValueError for another one, before it is written down anywhere."""
    if is_uri(text):
        try:
            StorageUri.parse(text)
        except StorageError as error:
            raise ValueError(f"is no URI that is allowed: {error}") from error
    return text


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"is {short_repr(text)}; allowed: 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end")
    return text


def _argument(text: str) -> str:
    if not _ARGUMENT.fullmatch(text):
        raise ValueError(f"has {short_repr(text)}; allowed: names of up to 64 letters, digits and underscores")
    return text


def _argument_value(value: Any) -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    if len(entries) > _ENTRIES or not all(_is_literal(entry) for entry in entries):
        raise ValueError(
            f"is {short_repr(value)}; allowed: numbers, true, false, null and texts of up to {_CHARACTERS} characters, "
            f"or a list of up to {_ENTRIES} of them"
        )
    if any(isinstance(entry, float) and not math.isfinite(entry) for entry in entries):
        raise ValueError(f"is {short_repr(value)}; allowed: a finite number")
    return list(value) if isinstance(value, tuple) else value


def _is_literal(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _CHARACTERS)


def _budget(text: str) -> str:
    return Budget.parse(text).label


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def as_list(value: Any) -> Any:
    """One entry needs no list around it."""
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _as_text(value: Any) -> Any:
    """`1300000` and `1.3e6` in YAML are numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if value == int(value) else str(value)


def image_sides(value: int | str) -> tuple[int, int]:
    """Height and width in pixels of `224`, or of `48x32`. Raises ValueError, whose message follows the name of the setting."""
    found = _IMAGE_SIZE.fullmatch(value) if isinstance(value, str) else None
    sides = (value, value) if isinstance(value, int) else (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(sides) < 1:
        raise ValueError(
            f"is {short_repr(value)}; allowed: the side of square images in pixels, 1 and more, or HEIGHTxWIDTH such as 48x32"
        )
    return sides


def _image_size(value: Any) -> Any:
    """The side alone where both are the same."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    height, width = image_sides(value)
    return height if height == width else f"{height}x{width}"


def _byte_size(text: str) -> str:
    return byte_size_text(parse_byte_size(text))


def _params(text: str) -> str:
    return str(parse_params(text))


def _latency(text: str) -> str:
    milliseconds, batch = parse_latency(text)
    latency = CostLimits(latency_ms=milliseconds, batch=batch).latency
    assert latency is not None
    return latency


def _least_text(value: Any) -> Any:
    """`0.8` in YAML is a number."""
    return f"{value:.12g}" if isinstance(value, float) else value


def _least(text: str) -> str:
    return percent_text(parse_least(text))


def _unreadable(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    return parse_allowed(value)


def _webhook(url: str) -> str:
    if not _WEBHOOK.fullmatch(url):
        # Not the text itself, which may hold a password.
        raise ValueError(
            "is no address that notifications can be sent to; allowed: https://HOST[:PORT][/PATH] or http://..., without a name, a "
            "password or a fragment"
        )
    return url


def _names(value: Any) -> Any:
    """`none`, and `eager,compiled` as on the command line."""
    if not isinstance(value, str):
        return value
    return [] if value == "none" else value.split(",")


Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096),
    AfterValidator(_no_control),
    Field(json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"}),
]
PathOrUri = Annotated[Text, AfterValidator(without_credentials)]
"""Where something is, or its name."""
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_list, json_schema_input_type=Text | list[Text]), Field(strict=False)]
WebhookUrl = Annotated[
    str,
    StringConstraints(max_length=2048),
    AfterValidator(_webhook),
    Field(json_schema_extra={"pattern": f"^{_WEBHOOK.pattern}$"}),
]
Label = Annotated[str, AfterValidator(_label), Field(json_schema_extra={"pattern": f"^{_LABEL.pattern}$"})]
Duration = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_duration),
    Field(json_schema_extra={"pattern": DURATION_PATTERN}),
]
ImageSize = Annotated[
    int | str,
    BeforeValidator(
        _image_size,
        json_schema_input_type=Annotated[int, Field(ge=1)]
        | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}([xX][1-9][0-9]{0,5})?$")],
    ),
]
"""The side of square images, or `HEIGHTxWIDTH`."""
ByteSize = Annotated[
    str,
    BeforeValidator(
        _as_text,
        json_schema_input_type=Annotated[str, Field(pattern=BYTE_SIZE_PATTERN, max_length=24)] | Annotated[int, Field(ge=0)],
    ),
    StringConstraints(max_length=40),
    AfterValidator(_byte_size),
]
ParamsText = Annotated[
    str,
    BeforeValidator(
        _as_text,
        json_schema_input_type=Annotated[str, Field(pattern=_PARAMS_PATTERN, max_length=24)] | Annotated[int, Field(ge=1)],
    ),
    StringConstraints(max_length=40),
    AfterValidator(_params),
]
LatencyText = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_latency),
    Field(json_schema_extra={"pattern": _LATENCY_PATTERN, "maxLength": 24}),
]
AccuracyText = Annotated[
    str,
    BeforeValidator(
        _least_text,
        json_schema_input_type=Annotated[str, Field(pattern=_LEAST_PATTERN, max_length=24)] | Annotated[float, Field(gt=0, le=1)],
    ),
    StringConstraints(max_length=40),
    AfterValidator(_least),
]
UnreadableShare = Annotated[
    int | float,
    BeforeValidator(
        _unreadable,
        json_schema_input_type=Annotated[int, Field(ge=0)]
        | Annotated[float, Field(ge=0, le=1)]
        | Annotated[str, Field(pattern=_UNREADABLE_PATTERN, max_length=24)],
    ),
]
"""A whole number of images, or a share."""
_BudgetText = Annotated[str, BeforeValidator(_as_text), StringConstraints(max_length=40), AfterValidator(_budget)]
_BudgetInput = Annotated[str, Field(pattern=_BUDGET_PATTERN, max_length=40)] | Annotated[int, Field(ge=1)]
Budgets = Annotated[
    tuple[_BudgetText, ...],
    BeforeValidator(
        as_list, json_schema_input_type=_BudgetInput | Annotated[list[_BudgetInput], Field(min_length=1, max_length=64)]
    ),
    Field(strict=False),
]
ArgumentName = Annotated[str, AfterValidator(_argument), Field(json_schema_extra={"pattern": f"^{_ARGUMENT.pattern}$"})]
ArgumentValue = Annotated[
    Any,
    AfterValidator(_argument_value),
    WithJsonSchema({"anyOf": [_LITERAL, {"type": "array", "items": _LITERAL, "maxItems": _ENTRIES}]}),
]
"""A literal, or a list of literals."""
SpeedModes = Annotated[
    tuple[SpeedMode, ...],
    BeforeValidator(
        _names,
        json_schema_input_type=Annotated[str, Field(pattern=_names_pattern(SPEED_MODES))]
        | Annotated[list[SpeedMode], Field(max_length=8)],
    ),
    Field(strict=False),
]
FormNames = Annotated[
    tuple[FormName, ...],
    BeforeValidator(
        _names,
        json_schema_input_type=Annotated[str, Field(pattern=_names_pattern(FORM_NAMES))]
        | Annotated[list[FormName], Field(max_length=8)],
    ),
    Field(strict=False),
]
