"""What `autoslim plan` says of time, device-hours, disk and money."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

PLAN = [
    "plan", "--model", "deit_tiny_patch16_224", "--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--from-scratch",
    "--image-size", "16", "--data", "digits", "--flops", "50%", "--space", "smoke", "--resources", "cpu=1", "--concurrency", "2",
    "--price-per-hour", "3", "--output", "out",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.short
def test_the_parts_make_up_the_time_and_the_device_hours_the_money(autoslim):
    code, out, err = autoslim(*PLAN, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["seconds"] == pytest.approx(sum(plan["parts"].values()))
    assert set(plan["parts"]) == {"starting", "dense model", "trials", "refinement", "finalizing"}
    assert all(seconds > 0 for seconds in plan["parts"].values())
    assert plan["device"] == "CPU"
    # Two trials at a time take two processors.
    assert 3600 * plan["device_hours"] == pytest.approx(
        plan["parts"]["dense model"] + 2 * plan["parts"]["trials"] + plan["parts"]["refinement"] + plan["parts"]["finalizing"]
    )
    assert plan["money"] == pytest.approx(3 * plan["device_hours"])
    # Other searches of this user may have decoded them.
    assert plan["decoded_before"] in range(1797 + 1)
    # 1,797 images at 18 x 18 are decoded, and the weights are small.
    assert 3 * 18 * 18 * 1797 < plan["bytes"] < 20e6


@pytest.mark.slow
@pytest.mark.short
def test_a_time_limit_holds_in_the_estimate(autoslim):
    code, out, err = autoslim(*PLAN, "--time", "30s", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["parts"]["trials"] + plan["parts"]["refinement"] <= 30 + 1e-6
    # As many as there is time for, of the 1,000 that there may be.
    assert 1 <= plan["expected"]["trials"] < 1000


@pytest.mark.slow
@pytest.mark.short
def test_people_are_told_in_three_lines(autoslim, monkeypatch):
    monkeypatch.setattr("workers.search.resources.busy_cpus", lambda: 1.6)
    code, out, err = autoslim(*PLAN)
    assert code == 0, err
    assert re.search(
        r"Trials    24 with 3 epochs each, 2 at a time, some \d+(\.\d)? epochs with early stops; the best of them for", out
    )
    assert re.search(
        r"Time      about \d+m\d+s here \(starting 27s, dense model .*\)\n          the machine is busy: others use 1.6 of ", out
    )
    assert re.search(r"Cost      about [0-9.e-]+ CPU hours, [0-9.]+ at 3 an hour; [0-9.]+ GB in ", out)


@pytest.mark.slow
def test_two_models_are_told_with_what_each_can_become(autoslim):
    one, other = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
    two = [*PLAN[:1], "--model", other, *PLAN[1:]]
    code, out, err = autoslim(*two, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert list(plan["starts"]) == [other, one]
    # A share is one of the first model's FLOPs, which has a token more.
    assert plan["dense_flops"] == plan["starts"][other]["dense_flops"] > plan["starts"][one]["dense_flops"]
    assert plan["budgets"] == {"50%": plan["dense_flops"] // 2}
    for start in plan["starts"].values():
        assert start["adapts"]
        assert start["methods"]["width"]["cheapest"] < plan["budgets"]["50%"]
        assert start["not_for"] == {}
    assert plan["prior"]["trials"] > 0
    code, out, err = autoslim(*two)
    assert code == 0, err
    for name in (one, other):
        assert re.search(rf"^width of {name} .* 50%$", out, flags=re.MULTILINE)
    assert "Prior     the first recipes of each dense model are the best of " in out
    assert "Teacher   the most accurate of these of the same image size" in out


GOAL = [word for word in PLAN if word not in ("--flops", "50%")]


@pytest.mark.slow
@pytest.mark.short
def test_a_goal_is_told_as_what_the_search_looks_for(autoslim):
    code, out, err = autoslim(*GOAL, "--max-drop", "1")
    assert code == 0, err
    assert (
        "Goal      drop-1: the cheapest model of an accuracy at most 1 point below the dense model on the validation images"
        in out
    )
    assert "unlike a budget it cannot be proven beforehand, and perhaps no trial keeps to it" in out
    assert "the dense model's accuracy is known when it has been adapted, before the first trial" in out
    assert re.search(r"another model lost no more with \d+% of its FLOPs: ViT of width 64", out)
    assert re.search(r"trials begin at \d+% of the dense model's FLOPs\n", out)
    assert "Budget    " not in out
    assert "none of the budgets" not in out


@pytest.mark.slow
@pytest.mark.short
def test_a_goal_is_in_the_json_with_what_other_models_say(autoslim):
    code, out, err = autoslim(*GOAL, "--min-accuracy", "80%", "--json")
    assert code == 0, err
    plan = json.loads(out)
    # How much may be lost is known with the dense model's accuracy only.
    assert plan["goal"] == {
        "max_drop": None,
        "least": 0.8,
        "label": "at-least-80%",
        "first_share": 0.7,
        "shares_of_other_models": {},
    }
    assert plan["budgets"] == {}
    assert plan["expected"]["trials"] == 24


@pytest.mark.slow
def test_hours_and_money_hold_in_the_estimate_with_what_handing_over_takes(autoslim):
    code, out, err = autoslim(*PLAN, "--json")
    whole = json.loads(out)
    # What is fixed, what the search keeps for its end, and room for half of the trials.
    assert whole["reserved"] > whole["parts"]["finalizing"]
    room = 0.5 * (whole["parts"]["trials"] + whole["parts"]["refinement"])
    hours = (whole["parts"]["starting"] + whole["parts"]["dense model"] + whole["reserved"] + room) / 3600
    code, out, err = autoslim(*PLAN, "--max-hours", f"{hours:.4f}", "--trials", "24", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["seconds"] <= 1.1 * 3600 * hours
    assert 1 <= plan["expected"]["trials"] < 24
    code, out, err = autoslim(*PLAN, "--max-cost", f"{0.6 * whole['money']:.5f}")
    assert code == 0, err
    assert re.search(
        r"Limits    --max-cost [0-9.]+, over all attempts; about \d+m?\d*s of it are kept for handing the models over", out
    )
    code, out, err = autoslim(*PLAN, "--max-hours", "0.001")
    assert code == 0, err
    assert "leaves nothing for a trial: give more" in out


@pytest.mark.slow
@pytest.mark.short
def test_a_second_plan_takes_the_images_that_the_first_has_prepared(autoslim, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    taken = []
    for seed in ("0", "0", "1"):
        code, _, err = autoslim(*PLAN, "--data", "photos", "--seed", seed)
        assert code == 0, err
        taken.append("40 images are taken prepared from" in err)
    assert taken == [False, True, False]
