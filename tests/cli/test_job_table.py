"""What a job of the service came to, in words."""

from __future__ import annotations

from typing import Any

from helpers.driven_job import RESULT

from autoslim.cli import job_table
from autoslim.client import Result
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


def test_accuracies_have_their_intervals_where_the_service_says_how_many_images_there_are() -> None:
    head, dense, model, *_ = lines(images={"validation": 500, "test": 1000})
    assert head.endswith("validation top-1, % (95 %)  test top-1, % (95 %)")
    assert model.endswith(wilson(0.905, 1000).percent())
    assert wilson(0.944, 500).percent() in dense
    assert lines()[0].endswith("validation top-1, %  test top-1, %")


def test_without_a_price_there_is_no_money_and_an_older_service_says_no_cost() -> None:
    assert lines(cost=COST)[-1] == "Cost: 0.127 GPU hours; 0.41 GB"
    assert not any(line.startswith("Cost") for line in lines())
