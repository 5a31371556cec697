"""Bars fit the terminal: names are cut, facts are left out, and what does not fit the height is counted."""

from __future__ import annotations

import pytest
from rich.console import Console

from autoslim.progress.drawing import draw, message
from autoslim.progress.status import Bar, Status

FACTS = ("2/5 epochs", "loss 0.812", "71.4%", "352 images/s")


def drawn(status: Status, *, width: int, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, color_system=None, force_terminal=True, highlight=False)
    with console.capture() as captured:
        console.print(draw(status, width=width, height=height, now=100.0))
    return [line.rstrip() for line in captured.get().splitlines()]


def search_of(trials: int, budgets: int = 2) -> Status:
    return Status(
        running=tuple(
            Bar(name=f"trial {number:02d} patch_slimming+width 50%", done=2, total=5, facts=FACTS) for number in range(trials)
        ),
        results=tuple((f"best {10 * number}%", f"7{number}.1% at 91.2M, trial {number} width") for number in range(budgets)),
        overall=Bar(name="12 of 24 trials", done=12, total=24),
        ends_at=3700.0,
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_long_message_goes_on_below_its_text_with_its_words_whole(width: int) -> None:
    text = "data: 144 validation images tell accuracies to about 8.2 points (95 %), and models that are closer are not told apart"
    console = Console(width=width, color_system=None, force_terminal=True, highlight=False)
    with console.capture() as captured:
        console.print(message(text, at="12:00:01", style="dim", width=width))
    first, *others = captured.get().splitlines()
    assert first.startswith("12:00:01 data: ")
    assert all(line.startswith(" " * 9) for line in others)
    assert max(map(len, (first, *others))) <= width
    assert " ".join(" ".join((first, *others)).split()) == f"12:00:01 {text}"
    assert len(others) == {40: 3, 80: 1, 200: 0}[width]


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(search_of(3), width=width)
    assert len(lines) == 3 + 2 + 1
    assert max(map(len, lines)) <= width


def test_at_80_columns_a_trial_has_its_epoch_loss_accuracy_and_speed() -> None:
    trial, *_, whole = drawn(search_of(1), width=80)
    assert trial.startswith("trial 00 patch_slimming…")
    assert all(fact in trial for fact in FACTS)
    assert whole.startswith("12 of 24 trials")
    assert "about 1h00m left" in whole


def test_at_200_columns_nothing_is_cut_and_bars_stand_below_each_other() -> None:
    lines = drawn(search_of(2), width=200)
    assert lines[0].startswith("trial 00 patch_slimming+width 50%  ")
    assert all(fact in lines[0] for fact in FACTS)
    assert len({line.index("━") for line in (*lines[:2], lines[-1])}) == 1
    assert lines[2].startswith("best 0%")


def test_facts_that_have_no_room_are_left_out_from_the_last_one() -> None:
    (line, *_) = drawn(search_of(1), width=50)
    assert FACTS[0] in line
    assert "images/s" not in line


def test_trials_beyond_the_height_are_counted_and_the_whole_stays() -> None:
    lines = drawn(search_of(40), width=80, height=10)
    assert len(lines) == 10
    assert "and 34 more" in lines
    assert lines[-1].startswith("12 of 24 trials")
    many = drawn(search_of(2, budgets=30), width=80, height=8)
    assert len(many) == 8
    assert many[-1].startswith("12 of 24 trials")


def test_a_step_of_unknown_length_has_a_bar_and_the_time_left_where_it_is_known() -> None:
    (line,) = drawn(Status(running=(Bar(name="exporting"),), ends_at=130.0), width=80)
    assert line.startswith("exporting  ")
    assert line.endswith("about 30s left")
    assert drawn(Status(), width=80) == []
