from autoslim.core.result import EpochReport, Phase
from autoslim.progress.epoch_line import epoch_line


def test_a_line_tells_what_was_measured_and_how_long_the_loader_was_waited_for():
    metrics = {"loss": 0.8123, "accuracy": 0.714, "images_per_second": 351.7, "loader_wait": 0.021}
    line = epoch_line(EpochReport(epoch=2.0, phase=Phase.FINETUNE, metrics=metrics), 3.0)
    assert line == "epoch 2/3, finetune, loss 0.812, accuracy 71.4%, 352 images/s, 2% of it waiting for images"


def test_both_epochs_have_the_same_digits():
    assert epoch_line(EpochReport(epoch=16.8, phase=Phase.FINETUNE, metrics={}), 16.8) == "epoch 17/17, finetune"


def test_what_was_not_measured_is_left_out():
    assert (
        epoch_line(EpochReport(epoch=0.0, phase=Phase.PRUNE, metrics={"accuracy": 0.5}), 3.0)
        == "epoch 0/3, prune, accuracy 50.0%"
    )
