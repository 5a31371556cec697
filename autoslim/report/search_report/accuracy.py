"""Each delivered model beside the dense one that it was made from, on the test images: by class, and the images whose answer changed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from autoslim.core.interval import wilson
from autoslim.core.score import ACCURACY
from autoslim.data import PreparedDataset
from autoslim.data.augment import centre_crop
from autoslim.export.artifact import SlimConfig
from autoslim.report.answers import read_answers
from autoslim.report.search_report.content import DeliveredModel, SearchContent
from autoslim.report.search_report.markup import MOST_MODELS, heading, paragraph, refer, shortened
from autoslim.report.search_report.pixels import data_uri
from autoslim.report.text_table import Column, draw_text_table, numbers
from autoslim.training.comparison import ClassDifference, ComparedAnswers, compare_answers
from autoslim.training.knn import NEIGHBOURS

MOST_CLASSES = 60
"""Rows of classes for each model; those that differ most come first."""

MOST_IMAGES = 12
"""Images with another answer that are shown for each model."""

_IMAGE_BYTES = 10_000
_SIDE = 96
"""Of an image as it is shown, in pixels."""

Changed = tuple[int, str, str, str]
"""Place in the test split, class, answer of the slimmed and of the dense model."""


def draw_accuracy(content: SearchContent) -> str:
    if not content.models:
        return paragraph("No model was delivered, so that there is nothing to compare on the test images.")
    return "\n".join(_of_model(content, model, with_images=place < MOST_MODELS) for place, model in enumerate(content.models))


def _of_model(content: SearchContent, model: DeliveredModel, *, with_images: bool) -> str:
    title = heading(f"{model.label}: trial {model.trial}, {model.config.recipe.title}")
    if (same := content.same_as(model)) is not None:
        return title + refer(same)
    if not model.config.classes:
        return title + _features(model.config)
    answers, files = read_answers(model.folder), _files(model.config)
    if answers is None:
        folder = model.folder.relative_to(content.output.root)
        text = f"An earlier version delivered {folder} without its answers; autoslim compare makes this table."
        return title + paragraph(text) + files
    found = compare_answers(model.config.classes, answers.label_N, answers.slimmed_N, answers.dense_N)
    parts = [title, _whole(model.config, found), files, _classes(model.label, found)]
    if with_images:
        parts.append(_images(content, model.config, found))
    return "\n".join(parts)


def _whole(config: SlimConfig, found: ComparedAnswers) -> str:
    slimmed, dense = (wilson(config.accuracy[f"test/{name}"], found.images).percent() for name in ("slimmed", "dense"))
    significant = not found.difference.low <= 0 <= found.difference.high
    verdict = "" if significant else ": these images do not tell the models apart"
    return paragraph(
        f"On {found.images:,} test images the slimmed model has {slimmed} % and the dense one {dense} % right (95 % intervals). Slimmed "
        f"less dense: {found.difference.points()} points, paired at 95 %{verdict}. {found.first_alone} images are right with the slimmed "
        f"model alone, {found.second_alone} with the dense one alone; {len(found.changed)} have different answers."
    )


def _files(config: SlimConfig) -> str:
    """What each exported file has right, in bold those that lose too much; nothing where none was judged."""
    judged = [form for form in config.forms if form.file and form.accuracy is not None]
    if not judged:
        return ""
    images = config.images.get("test")
    shown = ", ".join(f"{form.file} {ACCURACY.spaced(form.accuracy or 0.0, images)}" for form in judged)
    warnings = [f"<p><b>{escape(f'{form.file} {form.describe_loss()}.')}</b></p>" for form in judged if form.loses_too_much]
    return "".join([paragraph(f"Exported files on the same images, each by its own runtime: {shown}."), *warnings])


def _classes(label: str, found: ComparedAnswers) -> str:
    if not found.classes:
        return paragraph("In every class both models have equally many images right.")
    more = f", the first {MOST_CLASSES} of {len(found.classes)}" if len(found.classes) > MOST_CLASSES else ""
    columns = (
        Column("Class"),
        *numbers("Images", "Slimmed, % (95 %)", "Dense, % (95 %)", "Right with slimmed alone", "Right with dense alone"),
    )
    title = f"Classes in which the accuracies differ, {label}{more}; in all others they are equal"
    return draw_text_table(title, columns, [_class_row(row) for row in found.classes[:MOST_CLASSES]])


def _class_row(row: ClassDifference) -> list[str]:
    shares = (wilson(share, row.images).percent() for share in (row.first, row.second))
    return [shortened(row.name), f"{row.images:,}", *shares, str(row.first_alone), str(row.second_alone)]


def _images(content: SearchContent, config: SlimConfig, found: ComparedAnswers) -> str:
    if not found.changed:
        return ""
    if content.dataset is None:
        return paragraph(
            "The images with different answers are not shown: cache/ in the output folder does not have the images any more."
        )
    chosen = telling(found.changed, MOST_IMAGES)
    items = _figures(content.dataset, config, chosen)
    some = f"{len(chosen)} of the {len(found.changed)}" if len(chosen) < len(found.changed) else "The"
    text = f"{some} images with different answers, first those that the dense model alone has right, as the models see them:"
    return f'{paragraph(text)}<ul class="images">{items}</ul>'


def telling(changed: Sequence[Changed], most: int) -> list[Changed]:
    """Those that slimming lost first, then those that it gained, then those that are wrong either way; each in the split's order."""

    def rank(row: Changed) -> int:
        _, label, slimmed, dense = row
        return 0 if dense == label else 1 if slimmed == label else 2

    return sorted(changed, key=rank)[:most]


def _figures(dataset: PreparedDataset, config: SlimConfig, chosen: Sequence[Changed]) -> str:
    places = np.array([place for place, *_ in chosen], np.int64)
    stored = dataset.splits(config.shape.image_size, config.preprocessing.crop_pct).test.images(places)
    names, pixels = dataset.names("test", places), centre_crop(stored, config.shape.image_size)
    return "".join(_figure(row, name, Image.fromarray(image)) for row, name, image in zip(chosen, names, pixels, strict=True))


def _figure(row: Changed, name: str, image: Image.Image) -> str:
    place, label, slimmed, dense = (shortened(str(value), 60) for value in row)
    tiny = ' class="tiny"' if max(image.size) < _SIDE else ""
    image.thumbnail((2 * _SIDE, 2 * _SIDE))
    said = f"class {label}; slimmed: {slimmed}; dense: {dense}"
    return (
        f'<li><figure><img{tiny} src="{data_uri(image, most_bytes=_IMAGE_BYTES)}" alt="{escape(f"Test image {place}, {said}")}" '
        f'width="{_SIDE}" height="{_SIDE}"><figcaption>{escape(said)} (test image {place}, {escape(shortened(name))})'
        "</figcaption></figure></li>"
    )


def _features(config: SlimConfig) -> str:
    found = config.accuracy
    text = (
        f"The model returns features and answers with no class. On {config.images['test']:,} test images its agreement with the dense "
        f"model is {found['test/agreement']:.4f}, the mean of two cosines: pooled features {found['test/pooled']:.4f}, patches at their "
        f"places {found['test/patches']:.4f}."
    )
    if "probe/slimmed" in found:
        images = config.images["probe"]
        slimmed, dense = (wilson(found[f"probe/{name}"], images).percent() for name in ("slimmed", "dense"))
        text += (
            f" k-NN top-1 ({NEIGHBOURS} neighbours) on {images:,} images of a labelled set: slimmed {slimmed} %, dense {dense} % (95 % "
            "intervals)."
        )
    return paragraph(text)
