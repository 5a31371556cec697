"""What trials are compared by, in words."""

from __future__ import annotations

from autoslim.config import Placement, read_mapping
from autoslim.core.job import DatasetSpec
from autoslim.core.score import ACCURACY, AGREEMENT, SCORES, score_of


def test_labels_give_an_accuracy_and_features_an_agreement():
    assert score_of(labelled=True) is ACCURACY
    assert score_of(labelled=False) is AGREEMENT
    assert DatasetSpec(source="digits").score is ACCURACY
    assert DatasetSpec(source="digits", labelled=False).score is AGREEMENT
    assert SCORES == {"accuracy": ACCURACY, "agreement": AGREEMENT}


def test_a_share_is_shown_in_percent_and_a_cosine_is_not():
    assert (ACCURACY.text(0.91234), ACCURACY.text(0.91234, 2), ACCURACY.spaced(0.91234)) == ("91.2%", "91.23%", "91.23 %")
    assert (AGREEMENT.text(0.91234), AGREEMENT.text(0.91234, 2), AGREEMENT.spaced(0.91234)) == ("0.912", "0.9123", "0.9123")


def test_an_interval_is_that_of_a_share_of_images():
    assert ACCURACY.with_interval(0.711, 10_000) == "71.10 (70.2-72.0)"
    assert ACCURACY.with_interval(0.711, None) == "71.10"
    assert AGREEMENT.with_interval(0.711, 10_000) == "0.7110"
    assert ACCURACY.with_interval(None, 10_000) == ""
    assert ACCURACY.spaced(0.711, 10_000) == "71.10 (70.2-72.0) %"
    assert (ACCURACY.spoken(0.711, 10_000), ACCURACY.spoken(0.711, None)) == ("71.10% (70.2% to 72.0%)", "71.10%")
    assert AGREEMENT.spoken(0.711, 10_000) == "0.7110"
    units = [score.interval_unit(images) for score in (ACCURACY, AGREEMENT) for images in (10_000, None)]
    assert units == [", % (95 %)", ", %", "", ""]


def test_a_difference_says_of_what():
    assert ACCURACY.difference(0.0123) == "1.23 points of validation accuracy"
    assert AGREEMENT.difference(0.0123) == "0.0123 of validation agreement"


def test_the_objective_and_whether_there_are_labels_are_one_fact():
    spec = read_mapping(
        {"model": "deit_tiny_patch16_224", "data": "photos", "flops": "50%", "objective": "features", "probe": "digits"}
    )
    job = spec.to_job(id="j", placement=Placement(output="/o"))
    assert (job.dataset.labelled, job.probe) == (False, "digits")
    # A job without the setting has the JSON, and with it the digests, of earlier versions.
    plain = read_mapping({"model": "deit_tiny_patch16_224", "data": "photos", "flops": "50%"})
    assert not {"labelled", "probe"} & {
        *plain.to_job(id="j", placement=Placement(output="/o")).to_dict(),
        *plain.dataset_spec.to_dict(),
    }
