"""`answers.parquet`: what is written is what is compared."""

from __future__ import annotations

import pytest
import torch

from autoslim.errors import WeightsError
from autoslim.report.answers import FILE, read_answers, write_answers
from autoslim.training.comparison import compare_answers


def test_answers_are_read_as_they_were_written(tmp_path):
    assert read_answers(tmp_path) is None
    write_answers(tmp_path, labels=[0, 1, 2], dense=[0, 1, 1], slimmed=[0, 2, 2])
    found = read_answers(tmp_path)
    assert found is not None
    assert [part.tolist() for part in (found.label_N, found.dense_N, found.slimmed_N)] == [[0, 1, 2], [0, 1, 1], [0, 2, 2]]
    assert found.label_N.dtype == torch.int64


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / FILE).write_text("no Parquet")
    with pytest.raises(WeightsError, match=r"answers.parquet does not hold the answers of two models"):
        read_answers(tmp_path)


def test_classes_say_how_many_images_only_one_model_has_right():
    label_N, first_N, second_N = (torch.tensor(values) for values in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0]))
    found = compare_answers(("a", "b"), label_N, first_N, second_N)
    assert (found.first_alone, found.second_alone, found.changed) == (1, 0, ((1, "a", "a", "b"),))
    (row,) = found.classes
    assert (row.name, row.images, row.first, row.second) == ("a", 3, 2 / 3, 1 / 3)
    assert (row.first_alone, row.second_alone) == (1, 0)
