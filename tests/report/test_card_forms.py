"""The model card states the accuracy of every file, and says in bold which one loses too much."""

from __future__ import annotations

import pytest
from helpers.tiny import config_of, make_dense, slim

from autoslim.core.speed import SpeedReport, Timing
from autoslim.export.artifact import FormReport, SlimConfig
from autoslim.report.card import render_card
from autoslim.report.card_forms import forms_section, replace_forms_section

ONNX = FormReport(name="onnx", file="model.onnx", difference=1e-6, flops=1, accuracy=0.701, drop=0.0)
INT8 = FormReport(name="onnx-int8", file="model.int8.onnx", difference=0.4, accuracy=0.691, drop=1.0, made="all matrix products")
PT2 = FormReport(name="pt2", reason="the exporter does not like it")


@pytest.fixture
def config() -> SlimConfig:
    dense = make_dense()
    found = config_of("width", dense, slim("width", dense))
    return found.replace(
        accuracy={"test/dense": 0.72, "test/slimmed": 0.701, "validation/slimmed": 0.71, "validation/dense": 0.73},
        images={"test": 1000, "validation": 500, "compared": 16},
        forms=(ONNX, PT2, INT8),
    )


def test_every_file_has_its_own_accuracy(config: SlimConfig):
    text = forms_section(config)
    assert "| file | how it is read | top-1, test, % (95 %) | largest difference of a logit |\n|---|---|---|---|\n" in text
    assert "| `model.safetensors` | `autoslim.load` | 70.10 (67.2-72.9) | |" in text
    assert (
        "| `model.onnx` | ONNX, any batch; `images` (B, 3, height, width) in, `logits` out | 70.10 (67.2-72.9) | 1.0e-06 |"
        in text
    )
    assert "| 69.10 (66.2-71.9) | 4.0e-01 |" in text
    assert "Accuracies are each file's own, on all test images" in text
    assert "Not made: pt2, because the exporter does not like it." in text
    assert "`model.int8.onnx`: all matrix products." in text
    assert config.form_accuracy == {"model.onnx": 0.701, "model.int8.onnx": 0.691}


def test_what_loses_too_much_is_said_in_bold(config: SlimConfig):
    said = "**`model.int8.onnx` loses 1.00 points of top-1 on the test images (allowed: 0.5).**"
    assert said in forms_section(config)
    assert "**" not in forms_section(config.replace(forms=(ONNX, INT8.replace(allowed_drop=1.0))))


def test_without_accuracies_there_is_no_column_for_them(config: SlimConfig):
    text = forms_section(config.replace(forms=(ONNX.replace(accuracy=None, drop=None),)))
    assert "| file | how it is read | largest difference of a logit |\n|---|---|---|\n" in text
    assert "top-1" not in text and "safetensors" not in text


def test_the_speed_of_the_files_stands_beside_the_dense_model(config: SlimConfig):
    timing = Timing(
        mode="onnx-int8", device="cpu", batch=64, dense_ms=20.0, slimmed_ms=10.0, speedup=2.0, low=1.9, high=2.1, rounds=9
    )
    speed = SpeedReport(hardware="a chip", threads=2, timings=(timing,), left_out={"openvino": "it is not there"})
    text = forms_section(config.replace(form_speed=speed))
    assert "| onnx-int8 | 64 | 20 | 10 | 6,400 | 2.00 (1.90-2.10) |" in text
    assert "Not measured: openvino, because it is not there." in text
    assert "in float32 in ONNX Runtime, run in turns on the CPU: a chip,\n2 threads." in text


def test_the_section_is_replaced_and_nothing_else(config: SlimConfig):
    card = render_card(config.replace(forms=(ONNX,)), job="j", trial=3, source="photos", report="")
    replaced = replace_forms_section(card, config)
    assert replaced == render_card(config, job="j", trial=3, source="photos", report="")
    assert replace_forms_section(replaced, config) == replaced


def test_a_card_without_the_section_gets_it_in_its_place(config: SlimConfig):
    # FLOPs of a graph are another section's.
    config = config.replace(forms=(INT8,))
    card = render_card(config.replace(forms=()), job="j", trial=3, source="photos", report="")
    assert "## Forms" not in card
    assert replace_forms_section(card, config) == render_card(config, job="j", trial=3, source="photos", report="")
