import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.latency_tables import make_table
from helpers.tiny import share_of_dense

from autoslim.cli.slim import parse_knobs
from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits, budget_of_limits
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Step, TrainingSettings
from autoslim.cost import count_flops, predict
from autoslim.errors import BudgetError, OutputError, RequestError
from autoslim.export.artifact import LatencyReport, TimedReport, load, load_config
from autoslim.methods import METHODS
from autoslim.models import create_dense
from autoslim.report.answers import read_answers
from autoslim.slimming.request import SlimJob, solve_steps, step_budgets
from autoslim.slimming.run import Slimming, _difference

MODEL = ["--model", "deit_tiny_patch16_224", "--image-size", "16"]
TINY = [*MODEL, "--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2", "--from-scratch"]
SHORT = ["--data", "digits", "--train-limit", "200", "--epochs", "1", "--base-epochs", "0.5", "--speed", "none"]
SPEC = ModelSpec(
    name="deit_tiny_patch16_224",
    weights="scratch",
    args={"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    image_size=(16, 16),
)


def job_of(*steps, share="60%", **changes):
    job = SlimJob(
        model=SPEC,
        dataset=DatasetSpec(source="digits", train_limit=200),
        budget=Budget.parse(share),
        steps=tuple(Step(method=step, knobs={}) if isinstance(step, str) else step for step in steps),
        training=TrainingSettings(epochs=2.0, flip=False, precision="float32"),
        base=TrainingSettings(epochs=0.5, distillation=0.0, flip=False, precision="float32"),
    )
    return job.replace(**changes)


def shape():
    return create_dense(SPEC, classes=10).shape


def table_of(own):
    """A made-up table, for another model."""
    return make_table(shape=own)


def run_to_end(reports):
    seen = []
    while True:
        try:
            seen.append(next(reports))
        except StopIteration as end:
            return seen, end.value


def train(slimming):
    slimming.prepare()
    run_to_end(slimming.adapt())
    return run_to_end(slimming.train())


# End to end


@pytest.mark.slow
def test_a_model_within_limits_on_its_latency_and_its_parameters(autoslim, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    limited = ["--latency", "60s@2", "--params", "40K", "--output", "out", "--json"]
    code, out, err = autoslim("slim", "--method", "vit_slim", *TINY, *SHORT, *limited)
    assert code == 0, err
    summary = json.loads(out)
    config = load_config(tmp_path / "out")
    assert summary["budget_label"] == "60000ms@2+40K-params"
    assert 39_000 < summary["params"] == sum(p.numel() for p in load(tmp_path / "out").parameters()) <= 40_000
    assert config.limits == CostLimits(params=40_000, latency_ms=60_000.0, batch=2)
    assert config.latency.to_dict() == summary["latency"]
    assert 0 < config.latency.timed.ms <= 60_000
    assert (config.latency.timed.batch, config.latency.timed.mode) == (2, "eager")
    assert config.latency.predicted_ms > 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "of the limit of 40K." in card
    assert f"{config.latency.timed.ms:.4g} ms at batch 2 (eager)" in card
    assert "## Latency" in card
    assert "parameters of 40K (binding)" in err
    code, _, err = autoslim("slim", "--method", "vit_slim", *TINY, *SHORT, "--params", "30K", "--output", "out")
    assert (code, "--params is 30000, but this model was started with 40000" in err) == (2, True)


def test_a_latency_that_cannot_be_reached_is_told_with_the_least_that_can(monkeypatch, tmp_path):
    monkeypatch.setattr("autoslim.slimming.run.measure_job", lambda job, dense, folder: table_of(dense.shape))
    limits = CostLimits(latency_ms=0.01)
    job = job_of("life_regression").replace(budget=budget_of_limits(limits), limits=limits)
    with Slimming(tmp_path / "out", job) as slimming, pytest.raises(BudgetError, match=r"--latency 0.01ms@1: .* ms of 0.01 ms"):
        slimming.prepare()


def test_a_model_that_is_too_slow_when_it_is_measured_is_not_handed_over(monkeypatch, tmp_path):
    monkeypatch.setattr("autoslim.slimming.run.measure_job", lambda job, dense, folder: table_of(dense.shape))
    monkeypatch.setattr("autoslim.slimming.run.tightened", lambda prepared: prepared)
    took = {"ms": 99.0}

    def timed(folder, dense, table, limits):
        timed = TimedReport(
            hardware="h", device="cpu", threads=1, mode="eager", batch=1, ms=took["ms"], median_ms=1.0, dense_ms=9.0, rounds=9
        )
        return LatencyReport(predicted_ms=table.parts(load_config(folder).plan), correction=1.0, dense_ms=9.0, timed=timed)

    monkeypatch.setattr("autoslim.slimming.run.timed_here", timed)
    dense = table_of(shape())(Plan.dense(shape()))
    limits = CostLimits(latency_ms=0.7 * dense)
    job = job_of("life_regression", training=TrainingSettings(epochs=0.5, flip=False, precision="float32"), speed=())
    job = job.replace(budget=budget_of_limits(limits), limits=limits)
    with Slimming(tmp_path / "out", job) as slimming:
        slimming.prepare()
        _, facts = run_to_end(slimming.adapt())
        _, outcome = run_to_end(slimming.train())
        assert 0.5 * dense < outcome.latency_ms <= limits.latency_ms
        with pytest.raises(BudgetError, match=r"takes 99 ms here \(.* ms were predicted\), and is not delivered"):
            slimming.finalize_models(facts, outcome)
        assert not (tmp_path / "out" / "config.json").exists()
        assert (tmp_path / "out" / "work").exists()


def test_parameters_that_a_method_cannot_take_are_told_before_anything_is_trained(autoslim):
    code, _, err = autoslim("slim", "--method", "sit", *TINY, *SHORT, "--params", "40K", "--output", "out")
    assert code == 3
    assert "--params 40K: sit" in err
    assert "sit removes no parameters, which vit_slim and width can do" in err


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_model_within_the_budget(autoslim, tmp_path, method):
    arguments = ["slim", "--method", method, *TINY, *SHORT, "--flops", "65%", "--output", "out", "--json"]
    code, out, err = autoslim(*arguments)
    assert code == 0, err
    summary = json.loads(out)
    config = load_config(tmp_path / "out")
    assert config.recipe.method == summary["method"] == method
    assert count_flops(load(tmp_path / "out"), 16) == summary["flops"] <= summary["budget"] == int(0.65 * summary["dense_flops"])
    assert config.accuracy["test/slimmed"] == summary["test_accuracy"]
    assert config.accuracy["test/dense"] == summary["dense_test_accuracy"]
    forms = {"model.onnx", "model.pt2", "load.py", "SHA256SUMS"}
    delivered = {"config.json", "model.safetensors", "README.md", "picture.png", "picture.html", "answers.parquet"}
    assert delivered | forms == set(summary["files"])
    answers = read_answers(tmp_path / "out")
    assert float((answers.label_N == answers.slimmed_N).double().mean()) == pytest.approx(summary["test_accuracy"])
    assert float((answers.label_N == answers.dense_N).double().mean()) == pytest.approx(summary["dense_test_accuracy"])
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=False).returncode == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "without a search" in card
    assert f"| ONNX graph, from the shapes that ONNX Runtime meets | {summary['flops']:,} |" in card
    assert "Not made: timm, because" in card
    assert f"{method}: epoch" in err
    assert not (tmp_path / "out" / "work").exists()
    assert SlimJob.from_json((tmp_path / "out" / "slim.json").read_text()).steps == (Step(method=method, knobs={}),)
    code, again, err = autoslim(*arguments)
    assert (code, json.loads(again)) == (0, summary)
    assert "epoch" not in err


@pytest.mark.slow
def test_it_runs_where_the_searchs_packages_are_not_installed_and_the_dense_model_can_be_used_again(tmp_path):
    code = (
        "import sys\n"
        "for name in ('ray', 'optuna', 'mlflow'): sys.modules[name] = None\n"
        f"sys.argv = ['autoslim', *{['slim', '--method', 'life_regression']!r}, *{SHORT!r}, '--flops', '60%', *sys.argv[1:]]\n"
        "from autoslim.cli import main\n"
        "main()"
    )

    def run(*arguments):
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=250)

    done = run(*TINY, "--output", "one")
    assert done.returncode == 0, done.stderr
    assert re.search(r"life_regression +\S+K +\d+\.\d+%", done.stdout)
    done = run("--model", str(tmp_path / "one" / "dense"), "--output", "two")
    assert done.returncode == 0, done.stderr
    assert "adapt" not in done.stderr
    assert not (tmp_path / "two" / "dense").exists()


@pytest.mark.slow
def test_two_methods_follow_one_another(autoslim, tmp_path):
    order = ["--method", "vit_slim", "--method", "life_regression"]
    knobs = ["--knob", "life_regression.train_share=0.3", "--knob", "drops=2"]
    code, out, err = autoslim(
        "slim", *order, *TINY, *SHORT, *knobs, "--flops", "50%", "--first", "75%", "--output", "out", "--json"
    )
    assert code == 0, err
    config = load_config(tmp_path / "out")
    assert [step.method for step in config.recipe.steps] == ["vit_slim", "life_regression"]
    assert config.recipe.steps[1].knobs["drops"] == 2
    assert config.recipe.steps[1].knobs["train_share"] == 0.3
    every = config.shape.tokens
    blocks = tuple(b.replace(tokens_kv=every, tokens_q=every, tokens_mlp=every) for b in config.plan.blocks)
    widened = config.plan.replace(blocks=blocks, extras=())
    assert predict(config.shape, widened).total <= share_of_dense(config.shape, 0.75)
    assert json.loads(out)["flops"] <= share_of_dense(config.shape, 0.5)


# Going on


@pytest.mark.slow
@pytest.mark.short
def test_interrupted_in_the_middle_it_goes_on_to_the_very_same_model(tmp_path):
    # Most epochs behind the pruning, so that the middle is one of them.
    job = job_of(Step(method="life_regression", knobs={"train_share": 0.2}))
    with Slimming(tmp_path / "whole", job) as slimming:
        undisturbed, outcome = train(slimming)
    with Slimming(tmp_path / "halves", job) as slimming:
        slimming.prepare()
        run_to_end(slimming.adapt())
        reports = slimming.train()
        # A checkpoint is written after its report has been taken.
        first = [next(reports) for _ in range(4)]
        reports.close()
    with Slimming(tmp_path / "halves", job) as slimming:
        rest, again = train(slimming)
    assert rest[0].epoch > 1
    assert [r.metrics["loss"] for r in rest] == [r.metrics["loss"] for r in undisturbed[-len(rest) :]]
    assert len(rest) < len(undisturbed) <= len(first) + len(rest)
    assert again.replace(seconds=0.0) == outcome.replace(seconds=0.0)
    (whole,), (halves,) = ((tmp_path / name).glob("work/trial-*/model/model.safetensors") for name in ("whole", "halves"))
    assert whole.read_bytes() == halves.read_bytes()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path):
    command = [
        sys.executable,
        "-m",
        "autoslim.cli",
        "slim",
        "--method",
        "life_regression",
        *TINY,
        "--data",
        "digits",
        "--flops",
        "60%",
    ]
    command += ["--epochs", "6", "--base-epochs", "0.5", "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(r"life_regression: epoch [3-9]", line):
            process.send_signal(signal.SIGINT)
            break
    lines += list(process.stderr)
    process.stderr.close()
    assert process.wait(timeout=60) == 130, "".join(lines)
    assert "Repeat the command to continue" in lines[-1]
    assert not (tmp_path / "out" / "config.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stderr
    assert "adapt" not in again.stderr
    assert float(re.search(r"life_regression: epoch (\S+)/6", again.stderr)[1]) > 2
    assert load_config(tmp_path / "out").recipe.training.epochs == 6


def test_a_folder_takes_no_second_request_and_names_the_flag_that_differs(tmp_path):
    job = job_of("life_regression")
    with Slimming(tmp_path / "out", job) as slimming:
        slimming.prepare()
    for change, said in (
        ({"budget": Budget.parse("50%")}, "--flops is '50%', but this model was started with '60%'"),
        ({"training": job.training.replace(batch_size=8)}, "--batch-size is 8, but this model was started with 64"),
        ({"steps": (Step(method="life_regression", knobs={"drops": 1}),)}, "--method or --knob is life_regression {'drops': 1}"),
        ({"dataset": DatasetSpec(source="digits")}, "--train-limit is None"),
    ):
        with pytest.raises(OutputError, match=re.escape(said)):
            Slimming(tmp_path / "out", job.replace(**change)).__enter__()


@pytest.mark.slow
@pytest.mark.short
def test_another_teacher_is_adapted_too_and_gives_the_soft_labels(tmp_path):
    teacher = SPEC.replace(args={**SPEC.args, "embed_dim": 48, "depth": 3})
    training = TrainingSettings(epochs=0.5, flip=False, precision="float32", distillation=0.9)
    job, weights = job_of("merge", teacher=teacher, training=training), {}
    for name, asked in {"taught": job, "own": job.replace(teacher=None)}.items():
        with Slimming(tmp_path / name, asked) as slimming:
            prepared = slimming.prepare()
            run_to_end(slimming.adapt())
            _, facts = run_to_end(slimming.adapt_teacher())
            run_to_end(slimming.train())
        assert prepared.made_from.teacher == asked.teacher
        assert (facts is None) == (asked.teacher is None)
        folders = (tmp_path / name / "work").glob("base-*/model.safetensors")
        assert len(list(folders)) == (1 if asked.teacher is None else 2)
        (trained,) = (tmp_path / name / "work").glob("trial-*/model/model.safetensors")
        weights[name] = safetensors.torch.load_file(trained)
    assert any(not torch.equal(value, weights["own"][key]) for key, value in weights["taught"].items())
    said = "--teacher is None, but this model was started with 'deit_tiny_patch16_224'"
    with pytest.raises(OutputError, match=re.escape(said)):
        Slimming(tmp_path / "taught", job.replace(teacher=None)).__enter__()


def test_two_at_once_in_one_folder_are_refused(tmp_path):
    job = job_of("life_regression")
    with Slimming(tmp_path / "out", job), pytest.raises(OutputError, match="another autoslim slim is running there"):
        Slimming(tmp_path / "out", job).__enter__()


# What is asked for


def test_the_reduction_is_split_evenly_in_the_logarithm_or_as_it_is_said():
    total = predict(shape(), Plan.dense(shape())).total
    even = step_budgets(job_of("vit_slim", "life_regression"), shape(), total // 4)
    assert even == [pytest.approx(total / 2, rel=1e-5), total // 4]
    said = step_budgets(job_of("vit_slim", "life_regression", first=Budget.parse("80%")), shape(), total // 2)
    assert said == [int(0.8 * total), total // 2]
    assert step_budgets(job_of("vit_slim"), shape(), 1234) == [1234]
    with pytest.raises(RequestError, match=r"--first is 30%.*allowed: at least"):
        step_budgets(job_of("vit_slim", "life_regression", first=Budget.parse("30%")), shape(), total // 2)


def test_every_step_is_solved_onto_its_own_target():
    total = predict(shape(), Plan.dense(shape())).total
    job = job_of("vit_slim", "life_regression", share="50%")
    steps, plan = solve_steps(job, shape(), total // 2)
    first = METHODS["vit_slim"].expect(shape(), Plan.dense(shape()), steps[0].knobs)
    assert 0.9 * total / 2**0.5 < predict(shape(), first).total <= total / 2**0.5 + 1
    assert 0.9 * total / 2 < predict(shape(), plan).total <= total / 2


def test_knobs_belong_to_the_method_that_has_them():
    both = ["vit_slim", "life_regression"]
    assert parse_knobs(["drops=2", "vit_slim.cost_power=0.25"], both) == {
        "vit_slim": {"cost_power": 0.25},
        "life_regression": {"drops": 2},
    }
    assert parse_knobs(["adaptive=true"], ["dps"]) == {"dps": {"adaptive": True}}
    with pytest.raises(RequestError, match=r"write life_regression\.train_share or dps\.train_share"):
        parse_knobs(["train_share=0.1"], ["life_regression", "dps"])
    with pytest.raises(RequestError, match="allowed: vit_slim: keep"):
        parse_knobs(["kepe=1"], ["vit_slim"])
    with pytest.raises(RequestError, match="'kept' is not of the form name=value"):
        parse_knobs(["kept"], ["vit_slim"])


ENOUGH = ["--method", "life_regression", *TINY, "--data", "digits", "--flops", "60%"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*TINY, "--data", "digits", "--flops", "60%"], 2, "--method is needed; allowed: life_regression, "),
        (["--method", "life_regression", *TINY, "--data", "digits"], 2, "--flops is needed"),
        ([*ENOUGH, "--method", "magic"], 2, "--method is 'magic'; allowed: life_regression, "),
        ([*ENOUGH, "--method", "life_regression"], 2, "allowed: each method once"),
        ([*ENOUGH, "--knob", "kepe=0.3"], 2, "--knob is 'kepe=0.3'; allowed: life_regression: .*drops"),
        ([*ENOUGH, "--knob", "drops=9"], 2, "--knob: life_regression: drops is 9; allowed: 1, 2, 3, 4"),
        ([*ENOUGH, "--knob", "temperature=hot"], 2, "temperature is 'hot'; allowed: from 0.5 to 16"),
        ([*ENOUGH, "--first", "80%"], 2, "--first is '80%', but there is only one --method"),
        ([*ENOUGH, "--distillation", "2"], 2, "--distillation is 2.0; allowed: 0 to 1"),
        ([*ENOUGH, "--augmentation", "wild"], 2, "--augmentation is 'wild'; allowed: none, light, strong, deit, imagenet"),
        ([*ENOUGH, "--epochs", "0"], 2, "--epochs is 0.0; allowed: above 0"),
        ([*ENOUGH, "--train-limit", "0"], 2, "--train-limit is 0; allowed: 1 and more"),
        ([*ENOUGH, "--bound", "median"], 2, "--bound is 'median'; allowed: max, mean"),
        (["--method", "life_regression", *TINY, "--data", "digits", "--flops", "3%"], 3, "cheapest form has .* above the budget"),
        ([*ENOUGH, "--knob", "drops=1", "--knob", "drop_layer_1=3"], 3, "other knobs may reach lower: .*K with --knob drops=2"),
        (["--method", "life_regression", *TINY, "--data", "digits", "--flops", "90G"], 3, "is within it already"),
        (["--method", "life_regression", *TINY, "--data", "nowhere", "--flops", "60%"], 2, "'nowhere' does not exist"),
        (["--method", "life_regression", *MODEL, "--weights", "w", "--data", "digits", "--flops", "60%"], 2, "w does not exist"),
    ],
)
def test_mistakes_are_one_line_that_names_the_flag_and_what_is_allowed(autoslim, tmp_path, arguments, code, said):
    ended, out, err = autoslim("slim", *arguments, "--output", "out")
    assert ended == code, err
    assert not out
    assert len(err.strip().splitlines()) == 1, err
    assert re.search(said, err), err
    assert not (tmp_path / "out" / "slim.json").exists()


def test_a_folder_with_something_else_in_it_is_refused(autoslim, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("\\section{Results}")
    code, _, err = autoslim("slim", *ENOUGH, "--output", "out")
    assert code == 2
    assert "holds thesis.tex; give a new folder" in err
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_another_objective_is_told_as_it_is_written():
    labels = job_of("vit_slim")
    features = labels.replace(dataset=labels.dataset.replace(labelled=False))
    told = _difference(labels.to_dict(), features.to_dict())
    assert told == "--objective is 'features', but this model was started with 'labels'"
