import numpy as np
import pytest
import torch
from helpers.tiny import MODELS, images, make_dense, slim
from PIL import Image
from torch import nn

from autoslim.core.recipe import TrainingSettings
from autoslim.data import Loader, Sample, sample_split
from autoslim.data.dataset import ImageSplit
from autoslim.data.sample import spread
from autoslim.errors import UnsupportedModelError
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.life_regression.schedule import schedule
from autoslim.report.token_picture import TokenView, dimmed, draw_tokens, patch_map
from autoslim.report.token_survival import Survival, follow
from autoslim.report.width_picture import attention_bars, draw_widths, hidden_bars, token_bars


def lives_by_hand(model, dense, x, knobs):
    """The blocks each patch is a token of, from the regressor's own scores on the tokens it sees."""
    layers, kept = schedule(dense.shape, knobs)
    tokens = []
    trunk = model.blocks
    hook = trunk.stages[layers[0] - 1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    with torch.no_grad():
        model(x)
        scores = trunk.stages[layers[0]].pre_block.regressor(tokens[0])
    hook.remove()
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1)
    alive = [torch.ones_like(rank, dtype=torch.bool)] * layers[0]
    for block in range(layers[0], dense.shape.depth):
        drop = max(k for k, layer in enumerate(layers) if layer <= block)
        alive.append(rank < kept[drop])
    return torch.stack(alive)


@pytest.mark.parametrize("name", MODELS)
def test_survival_is_what_the_model_really_kept(name):
    dense = make_dense(name)
    finished = slim("life_regression", dense, share=0.6)
    x = images(3)
    survival = follow(finished.model, x, dense.shape)
    alive = lives_by_hand(finished.model, dense, x, finished.knobs)
    assert torch.equal(survival.weights[:-1].bool(), alive)
    assert torch.equal(survival.lives, alive.sum(dim=0).float())
    assert not survival.mixed
    counts = torch.tensor([block.tokens_kv - dense.shape.prefix_tokens for block in finished.plan.blocks])
    assert torch.equal(survival.counts[:-1], counts[:, None].expand(-1, 3))
    with torch.no_grad():
        assert torch.equal(survival.logits, finished.model(x))


def test_keys_and_values_of_a_block_that_computes_the_class_query_alone_still_live():
    dense = make_dense()
    survival = follow(class_query_last(dense.module, dense.shape.prefix_tokens), images(2), dense.shape)
    assert survival.weights[:-1].eq(1).all()
    assert survival.weights[-1].eq(0).all()


class Halve(nn.Module):
    """Means of neighbouring patches, the prefix token left alone."""

    def forward(self, x_BND):
        return self.token_map(x_BND) @ x_BND

    def token_map(self, x_BND):
        patches = x_BND.shape[1] - 1
        map_KN = torch.zeros(1 + patches // 2, 1 + patches)
        map_KN[0, 0] = 1
        for token in range(patches // 2):
            map_KN[1 + token, 1 + 2 * token : 3 + 2 * token] = 0.5
        return map_KN.expand(len(x_BND), -1, -1)


def test_mixtures_are_composed_through_the_network():
    dense = make_dense()
    model = install(dense.module, Trunk(blocks_of(dense.module), {1: Halve(), 3: Halve()}))
    survival = follow(model, images(2), dense.shape)
    assert survival.mixed
    assert [float(weights.unique()) for weights in survival.weights] == [1.0, 0.5, 0.5, 0.25, 0.25]
    assert float(survival.lives.unique()) == 2.25


class Silent(nn.Module):
    def forward(self, x_BND):
        return x_BND[:, :5]


def test_a_module_that_changes_tokens_and_does_not_say_how_is_refused():
    dense = make_dense()
    model = install(dense.module, Trunk(blocks_of(dense.module), {2: Silent()}))
    with pytest.raises(UnsupportedModelError, match="Silent makes 5 tokens of 17 and has no token_map"):
        follow(model, images(2), dense.shape)
    assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


def view_of(weights, *, size=(32, 32), grid=(4, 4), mixed=False):
    """Every image of the one colour; weights (L + 1, B, P)."""
    pixels = np.full((weights.shape[1], *size, 3), 200, np.uint8)
    survival = Survival(weights=weights, logits=torch.zeros(weights.shape[1], 2))
    captions = tuple(f"image {n}" for n in range(len(pixels)))
    return TokenView(pixels=pixels, captions=captions, grid=grid, survival=survival, head_reads_patches=False)


def test_columns_stand_only_where_patches_go():
    weights = torch.ones(7, 1, 16)
    weights[2:, :, :4] = 0
    weights[5:, :, 4:6] = 0
    view = view_of(weights)
    assert view.columns() == [(0, 1), (2, 4), (5, 5)]
    whole = TokenView(**{**vars(view), "head_reads_patches": True})
    weights[6, :, 6] = 0
    assert whole.columns() == [(0, 1), (2, 4), (5, 5), (6, 6)]


@pytest.mark.parametrize(("size", "grid"), [((32, 32), (4, 4)), ((32, 64), (2, 8)), ((96, 24), (12, 3)), ((30, 50), (3, 5))])
def test_dropped_patches_are_grey_and_kept_ones_untouched_on_any_grid(size, grid):
    rows, columns = grid
    share = np.zeros(rows * columns)
    share[columns + 1] = 1
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    drawn, plain = np.asarray(dimmed(photo, share, grid, veil=True)).astype(int), np.asarray(photo)
    height, width = size[0] // rows, size[1] // columns
    kept = (slice(height, 2 * height), slice(width, 2 * width))
    assert np.array_equal(drawn[kept], plain[kept])
    gone = np.ones(size, bool)
    gone[kept] = False
    assert np.ptp(drawn[gone], axis=1).max() <= 12
    dark = np.asarray(dimmed(photo, share, grid, veil=False))
    assert (dark[gone] <= 0.13 * plain[gone] + 1).all()


def test_patch_values_lie_in_reading_order():
    values = patch_map(np.arange(6.0), (2, 3), (4, 9))
    assert values[0, 0] == 0
    assert values[0, 8] == 2
    assert values[3, 4] == 4


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(32, 32), (32, 64), (224, 96)])
def test_a_picture_of_any_number_of_images_of_any_proportions_is_drawn(count, size):
    weights = torch.ones(5, count, 32)
    weights[2:, :, : 32 // 2] = 0
    picture = draw_tokens(view_of(weights, size=size, grid=(4, 8)))
    assert picture.width <= 1240
    assert len(picture.getcolors(2**24)) > 4


def test_mixed_patches_are_as_bright_as_their_weight_up_to_an_even_share():
    weights = torch.ones(3, 1, 16)
    weights[1:] = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(4)
    assert view_of(weights).brightness(1)[0] == pytest.approx(np.array([0.4, 0.8, 1, 1] * 4))


def test_bars_are_the_plan_against_the_dense_model():
    dense = make_dense()
    plan = slim("vit_slim", dense, share=0.5).plan
    shape = dense.shape
    assert [bar.value for bar in attention_bars(shape, plan)] == [block.heads * block.head_width for block in plan.blocks]
    assert {bar.dense for bar in attention_bars(shape, plan)} == {shape.heads * shape.head_width}
    assert [(bar.value, bar.dense) for bar in hidden_bars(shape, plan)] == [(b.hidden, shape.hidden) for b in plan.blocks]
    assert [bar.text for bar in token_bars(shape, plan)] == [str(block.tokens_kv) for block in plan.blocks]
    picture = np.asarray(draw_widths(shape, plan))
    for panel, (bars, colour) in enumerate(
        ((attention_bars(shape, plan), (213, 94, 0)), (hidden_bars(shape, plan), (0, 128, 91))), 1
    ):
        height = len(picture) // 3
        area = picture[panel * height : (panel + 1) * height]
        for block, bar in enumerate(bars):
            column = area[:, 60 + block * 96 + 20]
            coloured = int((column == colour).all(axis=1).sum())
            assert abs(coloured - 84 * bar.value / bar.dense) <= 2


# The images


def split_of(count=30, classes=5, size=(20, 24)):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return ImageSplit(np.arange(count, dtype=np.int64) % classes, size, lambda wanted: pixels[wanted])


def test_what_is_drawn_is_what_the_model_sees():
    split, mean, std = split_of(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    sample = sample_split(split, tuple("abcde"), (16, 16), 30)
    loader = Loader(split, training=TrainingSettings(batch_size=30), mean=mean, std=std, image_size=(16, 16), seed=0, train=False)
    batch, labels = next(loader.epoch(0))
    order = [int((batch - image).abs().sum(dim=(1, 2, 3)).argmin()) for image in sample.tensor(mean=mean, std=std)]
    assert torch.equal(batch[order], sample.tensor(mean=mean, std=std))
    assert labels[order].tolist() == sample.labels.tolist()
    back = (batch[order] * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]) * 255
    assert np.array_equal(back.permute(0, 2, 3, 1).round().byte().numpy(), sample.pixels)


def test_images_are_spread_over_the_classes():
    labels = np.repeat(np.arange(10), 7)
    assert sorted(labels[spread(labels, 5)].tolist()) == [0, 2, 4, 6, 8]
    assert sorted(labels[spread(labels, 20)].tolist()) == sorted([*range(10)] * 2)
    assert len(spread(labels, 500)) == 70
    assert len(set(spread(labels, 20).tolist())) == 20


def test_black_is_normalised_to_minus_one_at_half_mean_and_deviation():
    sample = Sample(pixels=np.zeros((1, 8, 8, 3), np.uint8), labels=np.array([1]), classes=("x", "y"))
    assert sample.tensor(mean=(0.5,) * 3, std=(0.5,) * 3).eq(-1).all()
