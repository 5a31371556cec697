"""What a job of the service came to, in words."""

from __future__ import annotations

from typing import Any

from helpers.driven_job import RESULT

from autoslim.cli import job_table
from autoslim.client import Result, Trial
from autoslim.core.interval import wilson

COST: dict[str, Any] = {"seconds": 80.0, "device": "GPU", "device_hours": 0.127, "bytes": 410_000_000}


def lines(**more: Any) -> list[str]:
    return job_table.result(Result.model_validate({**RESULT, **more}))


def test_why_a_model_was_taken_and_what_it_cost_stand_below_the_models() -> None:
    said = lines(reasons={"50%": "trial 3 (vit_slim) is taken, because"}, cost={**COST, "price": 2.5, "money": 0.3175})
    assert said[-2:] == [
        "50%: trial 3 (vit_slim) is taken, because",
        "Cost: 0.127 GPU hours, 0.32 at 2.5 an hour; 0.41 GB",
    ]


def test_each_model_has_one_line_and_the_one_that_the_numbers_speak_for_is_named() -> None:
    line, speaks = (
        "test 90.50% (88.5% to 92.2%), 3.6 points below the dense model",
        "The numbers speak for 50%, trial 3 (vit_slim)",
    )
    said = lines(reasons={"50%": "trial 3 (vit_slim) is taken, because"}, lines={"50%": line}, recommended=speaks)
    assert said[-2:] == [f"50%: {line}", speaks]


def test_trials_have_intervals_where_the_images_are_known() -> None:
    facts = {"number": 0, "method": "sit", "target": "50%", "state": "complete", "origin": "sampler", "budget": 479_472}
    trial = Trial.model_validate({**facts, "accuracy": 0.88})
    head, row = job_table.trials([trial], images=500)
    assert "VALIDATION TOP-1, % (95 %)" in head
    assert wilson(0.88, 500).percent() in row


def test_accuracies_have_their_intervals_where_the_service_says_how_many_images_there_are() -> None:
    head, dense, model, *_ = lines(images={"validation": 500, "test": 1000})
    assert head.endswith("validation top-1, % (95 %)  test top-1, % (95 %)")
    assert model.endswith(wilson(0.905, 1000).percent())
    assert wilson(0.944, 500).percent() in dense
    assert lines()[0].endswith("validation top-1, %  test top-1, %")


def test_without_a_price_there_is_no_money_and_an_older_service_says_no_cost() -> None:
    assert lines(cost=COST)[-1] == "Cost: 0.127 GPU hours; 0.41 GB"
    assert not any(line.startswith("Cost") for line in lines())
