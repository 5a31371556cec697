"""Plans over HTTP: bounded before they are begun, in turns, and answered whatever happens to the planner."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.running_service import SPEC, RunningService, patient, running, settings_in
from helpers.shared_planner import planner_of

from autoslim.config import read_mapping
from autoslim.service.catalog import Catalog

# Takes the planner seconds: nearly every number of a plan is worked out once for each block.
DEAR: dict[str, Any] = SPEC | {"model_args": {"patch_size": 4, "embed_dim": 32, "depth": 64, "num_heads": 2}}
LIMITS = patient(images=1000, plans=3, recipes=10**9)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("plans")
    roots = {name: [folder / name] for name in ("data_roots", "model_roots")}
    for paths in roots.values():
        paths[0].mkdir()
    with running(settings_in(folder, limits=LIMITS, **roots)) as service:
        service.key()
        yield service


@pytest.fixture
def asker(planned: RunningService) -> Iterator[httpx.Client]:
    with planned.client() as client:
        yield client


def refusal(client: httpx.Client, **fields: Any) -> tuple[str, str]:
    """Where the spec is wrong, and why."""
    answer = client.post("/v1/plans", json=SPEC | fields)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    return error["pointer"], error["detail"]


@pytest.mark.slow
def test_a_model_of_too_many_tokens_is_refused_before_it_is_planned(asker: httpx.Client) -> None:
    pointer, told = refusal(asker, image_size=1024, model_args={"patch_size": 1, "embed_dim": 32, "depth": 64, "num_heads": 2})
    assert pointer == "/model"
    assert "has 64 blocks of 1,048,577 tokens, blocks x tokens^2 = 7.04e+13; allowed: at most 1e+10 (limits.attention)" in told
    assert "choose a smaller image_size than 1024 or a larger patch_size" in told


@pytest.mark.slow
def test_a_space_of_too_many_values_is_refused_before_they_are_tried(client: httpx.Client) -> None:
    space = {"methods": {"life_regression": {"mean_life": {"choices": [round(0.3 + n / 3000, 5) for n in range(1900)]}}}}
    answer = client.post("/v1/plans", json=DEAR | {"space": space})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/space"


@pytest.mark.slow
@pytest.mark.short
def test_rows_of_parquet_files_are_counted_before_a_label_is_read(planned: RunningService, asker: httpx.Client) -> None:
    folder = planned.settings.data_roots[0] / "rows"
    folder.mkdir()
    for split, rows in (("train", 600), ("test", 500)):
        image = pa.array([None] * rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(
            pa.table({"image": image, "label": pa.array([row % 2 for row in range(rows)])}), folder / f"{split}.parquet"
        )
    expected = "more than 1,000 images; allowed: at most 1,000 (limits.images); name a smaller data set, or ask the operator"
    pointer, told = refusal(asker, data=str(folder))
    assert (pointer, expected in told) == ("/data", True)
    (folder / "test.parquet").unlink()
    assert asker.post("/v1/plans", json=SPEC | {"data": str(folder)}).status_code == 200


def test_files_of_an_image_folder_are_counted_before_they_are_listed(planned: RunningService, asker: httpx.Client) -> None:
    folder = planned.settings.data_roots[0] / "files"
    (folder / "cats").mkdir(parents=True)
    for number in range(1001):
        (folder / "cats" / f"{number}.png").touch()
    assert refusal(asker, data=str(folder))[0] == "/data"


@pytest.mark.parametrize(
    "config",
    [
        {"model_args": {"norm_layer": "nothing"}},
        {"model_args": {"block_fn": "os.system"}},
        {"model_args": {"depth": 100_000}},
        {"model_args": {"depth": "3"}},
        {"model_args": "depth"},
        {"pretrained_cfg": "imagenet"},
        {"pretrained_cfg": {"input_size": "large"}},
        {"pretrained_cfg": {"mean": "grey"}},
        {"pretrained_cfg": {"crop_pct": [1]}},
        {"label_names": 3},
        {"num_classes": "ten"},
        {"architecture": "vit_nothing"},
        {"architecture": ["vit_tiny_patch16_224"]},
    ],
    ids=json.dumps,
)
def test_a_model_folder_whose_config_is_wrong_is_an_answer(
    planned: RunningService, asker: httpx.Client, tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = planned.settings.model_roots[0] / tmp_path.name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"} | config))
    for path in ("/v1/plans", "/v1/jobs"):
        answer = asker.post(path, json=SPEC | {"model": str(folder), "model_args": {}, "image_size": 32})
        assert (answer.status_code, [error["pointer"] for error in answer.json()["errors"]]) == (422, ["/model"]), answer.text


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_whose_process_dies_is_a_problem_with_an_id_that_is_in_the_log_and_the_next_is_made(
    planned: RunningService, asker: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert asker.post("/v1/plans", json=SPEC).status_code == 200
    planner = planner_of(planned.server._app.state.autoslim.dry_runner.planner.pid)
    with concurrent.futures.ThreadPoolExecutor() as pool, caplog.at_level(logging.ERROR):
        asked = pool.submit(asker.post, "/v1/plans", json=DEAR)
        while not (forks := planner.children()):
            time.sleep(0.01)
        forks[0].kill()
        answer = asked.result()
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (500, "internal-error")
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "was killed by signal 9" in caplog.text
    assert "signal" not in answer.text
    assert asker.post("/v1/plans", json=SPEC | {"flops": ["44%"]}).status_code == 200
    assert planner.is_running()


@pytest.mark.slow
def test_past_the_length_of_the_queue_a_tenant_is_told_when_to_come_back_and_another_is_answered(
    planned: RunningService, asker: httpx.Client
) -> None:
    def ask(share: int) -> httpx.Response:
        return asker.post("/v1/plans", json=DEAR | {"flops": [f"{share}%"]})

    with concurrent.futures.ThreadPoolExecutor(8) as pool, planned.client() as other:
        asked = [pool.submit(ask, share) for share in range(50, 58)]
        done, _ = concurrent.futures.wait(asked, return_when=concurrent.futures.FIRST_COMPLETED)
        assert {answer.result().status_code for answer in done} == {429}
        assert other.post("/v1/plans", json=SPEC | {"flops": ["45%"]}).status_code == 200
        assert not all(answer.done() for answer in asked)
        answers = [answer.result() for answer in asked]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(refused), {answer.status_code for answer in answers}) == (5, {200, 429})
    assert {answer.json()["code"] for answer in refused} == {"too-many-plans"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)


TWO: dict[str, Any] = SPEC | {"model": ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"], "space": "smoke"}


def test_a_plan_prices_every_dense_model(asker: httpx.Client) -> None:
    answer = asker.post("/v1/plans", json=TWO)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert [model["name"] for model in plan["models"]] == TWO["model"]
    first, second = plan["models"]
    assert (first["dense_flops"], first["params"]) == (plan["dense_flops"], plan["params"])
    assert second["dense_flops"] > first["dense_flops"]
    (budget,) = plan["budgets"]
    assert budget["flops"] == first["dense_flops"] // 2
    assert {method["model"] for method in budget["methods"]} == set(TWO["model"])
    one = asker.post("/v1/plans", json=TWO | {"model": TWO["model"][0]}).json()
    assert one["models"] == []
    assert all(method["model"] is None for method in one["budgets"][0]["methods"])
    # Both dense models are adapted, and stored.
    assert plan["estimate"]["base_training_images"] == 2 * one["estimate"]["base_training_images"]
    assert plan["estimate"]["disk_bytes"] > one["estimate"]["disk_bytes"] + 4 * second["params"] - 1


def test_a_wrong_model_or_teacher_is_pointed_at(asker: httpx.Client) -> None:
    assert refusal(asker, model=[SPEC["model"], "deit_huge"])[0] == "/model/1"
    pointer, told = refusal(asker, model=[SPEC["model"]] * 2)
    assert (pointer, "given twice with the same weights" in told) == ("/model/1", True)
    assert refusal(asker, teacher="deit_huge")[0] == "/teacher"
    assert refusal(asker, teacher="/etc/passwd.pth")[0] == "/teacher"
    assert refusal(asker, weights=["scratch", "scratch"])[0] == "/weights"


def test_a_teacher_of_another_image_size_is_refused(asker: httpx.Client) -> None:
    large = {"model_args": {}, "image_size": None, "model": "vit_tiny_patch16_224", "teacher": "vit_base_patch16_384"}
    pointer, told = refusal(asker, **large)
    assert pointer == "/teacher"
    assert "is for images of 384x384, but the model is for 224x224" in told


def test_a_model_may_teach_without_pretrained_weights_only_where_it_is_a_start(planned: RunningService) -> None:
    catalog = Catalog(planned.settings.model_copy(update={"pretrained": False}))
    names = [*TWO["model"], "vit_base_patch16_224"]
    for teacher, allowed in ((TWO["model"][1], True), ("vit_base_patch16_224", False)):
        resolved, issues = catalog.resolve(read_mapping(TWO | {"teacher": teacher}), names)
        assert [issue.place for issue in issues] == ([] if allowed else [("teacher",)])
        assert resolved.model == tuple(TWO["model"])
