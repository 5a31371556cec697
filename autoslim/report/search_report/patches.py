"""Which patches of real images the delivered models keep: the pictures that were drawn when they were delivered."""

from __future__ import annotations

from html import escape

from PIL import Image

from autoslim.report.picture import PNG
from autoslim.report.search_report.content import DeliveredModel, SearchContent
from autoslim.report.search_report.markup import MOST_MODELS, heading, paragraph, refer
from autoslim.report.search_report.pixels import data_uri

_PICTURE_BYTES = 300_000


def draw_patches(content: SearchContent) -> str:
    if not content.models:
        return paragraph("No model was delivered.")
    parts = [_of_model(content, model) for model in content.models[:MOST_MODELS]]
    others = ", ".join(model.label for model in content.models[MOST_MODELS:])
    if others:
        parts.append(paragraph(f"The pictures of {others} are picture.html in their folders."))
    return "\n".join(parts)


def _of_model(content: SearchContent, model: DeliveredModel) -> str:
    title = heading(f"{model.label}: trial {model.trial}, {model.config.recipe.title}")
    if (same := content.same_as(model)) is not None:
        return title + refer(same)
    file = model.folder / PNG
    if not file.is_file():
        return title + paragraph("No picture was drawn of this model; the log of the search says why.")
    with Image.open(file) as picture:
        uri, size = data_uri(picture, most_bytes=_PICTURE_BYTES), picture.size
    alt = (
        f"Test images on their way through the model for {model.label}: which patches are there in which block, and bars of each block's "
        "tokens and widths. The next section has the numbers."
    )
    page = f"models/{model.label}/picture.html"
    return (
        f'{title}<figure class="wide" aria-label="{escape(f"Picture of {model.label}")}" tabindex="0">'
        f'<img src="{uri}" alt="{escape(alt)}" width="{size[0]}" height="{size[1]}">'
        f"<figcaption>As in {escape(page)} in the output folder, in a lower quality.</figcaption></figure>"
    )
