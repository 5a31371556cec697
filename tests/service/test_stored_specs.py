"""Facts of stored specs: right for each text, and no spec is read twice."""

from __future__ import annotations

import json

from autoslim.config import read_mapping
from autoslim.service import stored_specs
from autoslim.service.stored_specs import StoredSpecs

SPEC = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "flops": ["50%"], "trials": 4}


def _text(**fields: object) -> str:
    return read_mapping(SPEC | fields).model_dump_json()


def test_each_spec_has_its_own_facts_and_is_read_once(monkeypatch):
    read: list[str] = []
    real = stored_specs.read_json
    monkeypatch.setattr(stored_specs, "read_json", lambda text: read.append(text) or real(text))
    specs, first, second = StoredSpecs(), _text(), _text(trials=7, objective="features", weights="pretrained")
    for _ in range(2):
        assert (specs.facts(first).score.name, specs.facts(first).most_trials) == ("accuracy", 4)
        assert (specs.facts(second).score.name, specs.facts(second).most_trials) == ("agreement", 7)
    assert read == [first, second]


def test_only_so_many_are_kept_and_the_oldest_read_goes_first(monkeypatch):
    monkeypatch.setattr(stored_specs, "_KEPT", 2)
    specs = StoredSpecs()
    texts = [_text(trials=number) for number in (1, 2, 3)]
    for text in (texts[0], texts[1], texts[0], texts[2]):
        specs.facts(text)
    kept = [facts.most_trials for facts in specs._facts.values()]
    assert kept == [1, 3]
    assert json.loads(texts[1])["trials"] == specs.facts(texts[1]).most_trials
