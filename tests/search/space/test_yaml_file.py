from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from autoslim.errors import SpaceError
from autoslim.methods.base import Method
from autoslim.search import load_space, parse_space, space_names
from autoslim.search.space.yaml_file import SIZE_LIMIT

MISTAKES = {
    "nothing": ("", ["must be a mapping", "None"]),
    "a list": ("[1, 2]", ["must be a mapping", "methods"]),
    "broken yaml": ("methods: {tokens: ", ["line 1", "not valid YAML"]),
    "code": ("methods: !!python/object/apply:os.system [ls]", ["not valid YAML", "python/object"]),
    "a tab": ("methods:\n\ttokens:", ["line 2", "not valid YAML"]),
    "a control character": ("methods: \x01", ["not valid YAML"]),
    "an impossible date": ("methods: 2020-13-45", ["not valid YAML"]),
    "a number without end": ("methods: " + "9" * 5000, ["not valid YAML"]),
    "nesting without end": ("[" * 5000, ["nested too deeply"]),
    "the same key twice": ("methods: {width: , width: }", ["'width' is given twice", "line 1"]),
    "unknown section": ("method: {width: }", ["no key 'method'", "did you mean 'methods'", "training"]),
    "description that is none": ("description: [1]\nmethods: {width: }", ["description", "line of text"]),
    "no method": ("training: {lr: 0.1}", ["names no method", "tokens, width"]),
    "methods as a list": ("methods: [width]", ["methods must be a mapping"]),
    "unknown method": ("methods: {widht: }", ["methods", "'widht'", "did you mean 'width'", "tokens, width"]),
    "method that is a number": ("methods: {3: }", ["no method 3"]),
    "method as a number": ("methods: {width: 3}", ["methods.width must be a mapping"]),
    "unknown knob": ("methods: {width: {kep: 0.5}}", ["methods.width", "'kep'", "did you mean 'keep'", "flavour"]),
    "knob of another method": ("methods: {width: {cuts: 1}}", ["methods.width", "no knob 'cuts'", "keep, flavour, bold"]),
    "the solver's knob": ("methods: {tokens: {filled: 3}}", ["no knob 'filled'", "layer_1"]),
    "unknown training setting": ("methods: {width: }\ntraining: {epochs: 3}", ["training", "'epochs'", "allowed: lr"]),
    "training as a list": ("methods: {width: }\ntraining: [lr]", ["training must be a mapping"]),
    "value too high": ("methods: {width: {keep: 1.5}}", ["methods.width.keep is 1.5", "0.3 to 1"]),
    "range too wide": ("methods: {width: {keep: {low: 0.1, high: 0.5}}}", ["methods.width.keep.low is 0.1", "0.3 to 1"]),
    "range upside down": ("methods: {width: {keep: {low: 0.9, high: 0.5}}}", ["methods.width.keep", "low 0.9 is above high 0.5"]),
    "empty range": ("methods: {width: {keep: {}}}", ["methods.width.keep", "{} says nothing"]),
    "unknown range key": ("methods: {width: {keep: {min: 0.5}}}", ["methods.width.keep", "no range key 'min'", "low, high, log"]),
    "log that is none": ("methods: {tokens: {rate: {low: 1, log: maybe}}}", ["rate.log is 'maybe'", "true, false"]),
    "log of zero": ("methods: {tokens: {gone_1: {low: 0, log: true}}}", ["gone_1.log", "above 0"]),
    "log of blocks": ("methods: {tokens: {layer_1: {low: 0.5, log: true}}}", ["layer_1.log", "blocks"]),
    "not a number": ("methods: {width: {keep: .nan}}", ["methods.width.keep is nan", "0.3 to 1"]),
    "infinity": ("methods: {tokens: {rate: {high: .inf}}}", ["rate.high is inf", "0.1 to 10"]),
    "text for a number": ("methods: {width: {keep: most}}", ["methods.width.keep is 'most'", "0.3 to 1"]),
    "null for a number": ("methods: {width: {keep: }}", ["methods.width.keep is None", "0.3 to 1"]),
    "true for a number": ("methods: {tokens: {calls: true}}", ["calls is True", "1 to 8 (whole numbers)"]),
    "fraction for a whole number": ("methods: {tokens: {calls: 1.5}}", ["calls is 1.5", "whole numbers"]),
    "block index": ("methods: {tokens: {layer_1: 4}}", ["layer_1 is 4", "share of the depth"]),
    "list of a priced knob": ("methods: {width: {keep: [0.4, 0.6]}}", ["methods.width.keep", "low: …", "0.3 to 1"]),
    "list of blocks": ("methods: {tokens: {layer_1: [0.4, 0.6]}}", ["layer_1", "low: …"]),
    "empty list": ("methods: {width: {flavour: []}}", ["flavour", "empty", "sweet, sour, salty"]),
    "value listed twice": ("methods: {width: {flavour: [sweet, sweet]}}", ["flavour", "'sweet' is listed twice"]),
    "unknown choice": ("methods: {width: {flavour: [swet]}}", ["flavour is 'swet'", "did you mean 'sweet'", "salty"]),
    "range of choices": ("methods: {width: {flavour: {low: 1}}}", ["flavour", "no low and high", "sour"]),
    "one for true": ("methods: {width: {bold: 1}}", ["bold is 1", "false, true"]),
    "list in a list": ("methods: {width: {flavour: [[sweet]]}}", ["flavour is ['sweet']"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_answered_with_file_key_and_what_is_allowed(methods: dict[str, Method], mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    with pytest.raises(SpaceError) as caught:
        parse_space(text, source="mine.yaml", methods=methods)
    message = str(caught.value)
    assert message.startswith("mine.yaml")
    assert all(part in message for part in expected), message
    assert len(message) < 500


def test_aliases_that_multiply_are_refused_quickly(methods: dict[str, Method]) -> None:
    levels = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))
    with pytest.raises(SpaceError, match="no method"):
        parse_space(f"methods:\n  a0: &a0 [x]\n{levels}\n", source="bomb.yaml", methods=methods)
    with pytest.raises(SpaceError, match="description is") as caught:
        parse_space(f"training:\n  a0: &a0 [x]\n{levels}\ndescription: *a29", source="bomb.yaml", methods=methods)
    assert len(str(caught.value)) < 500


def test_anchors_and_merges_are_fine(methods: dict[str, Method]) -> None:
    text = "methods:\n  tokens: {gone_1: &half {low: 0.1, high: 0.5}, gone_2: {<<: *half, high: 0.8}}"
    tokens = parse_space(text, source="s.yaml", methods=methods).methods["tokens"]
    assert (tokens["gone_1"].high, tokens["gone_2"].low, tokens["gone_2"].high) == (0.5, 0.1, 0.8)


def test_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(SpaceError, match=r"did you mean 'default'\? allowed: .*smoke"):
        load_space("defualt")


def test_file_is_read_by_its_path(tmp_path: Path, methods: dict[str, Method]) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("methods: {width: {keep: 0.5}}")
    assert load_space(str(path), methods).name == "mine"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"mine\.yaml: cannot be read.*default"):
        load_space(str(tmp_path / "mine.yaml"))
    with pytest.raises(SpaceError, match="cannot be read"):
        load_space(f"{tmp_path}/")


def test_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(SpaceError, match="larger than"):
        load_space(str(path))
    path.write_bytes(b"methods: \xff")
    with pytest.raises(SpaceError, match="not UTF-8"):
        load_space(str(path))


def test_yaml_mistake_does_not_quote_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("password: hunter2: [")
    with pytest.raises(SpaceError) as caught:
        load_space(str(path))
    assert "hunter2" not in str(caught.value)


def test_example_in_the_documents_loads() -> None:
    page = (Path(__file__).parents[3] / "docs" / "search-spaces.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    space = parse_space(example, source="search-spaces.md")
    assert space.methods["life_regression"]["drops"].choices == (1, 2)


def test_every_space_is_in_the_folders_readme() -> None:
    readme = (importlib.resources.files("search_spaces") / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in space_names())
