"""What a slimmed model does to real images and what is left of its widths: one PNG, and the same as a page with the numbers."""

from __future__ import annotations

import base64
import dataclasses
import io
from html import escape
from pathlib import Path

from PIL import Image

from autoslim.core.budget import format_flops
from autoslim.data import Sample
from autoslim.export.artifact import SlimConfig, load, load_config
from autoslim.report.canvas import INK, PAPER, SOFT, framed, stack, write
from autoslim.report.document import render_document
from autoslim.report.resource import read_resource
from autoslim.report.token_picture import TokenView, draw_tokens
from autoslim.report.token_survival import Survival, follow
from autoslim.report.width_picture import draw_widths

PNG, PAGE = "picture.png", "picture.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """`png` and `html` as they go to a file; the page needs no network."""

    png: bytes
    html: str


def picture_of(folder: Path, sample: Sample) -> Picture:
    """`folder` holds a slimmed model, `sample` is cropped to its image size.

    Raises:
        WeightsError: when the folder holds no slimmed model.
        UnsupportedModelError: when a part of the model does not say what it does to the tokens.
    """
    config = load_config(folder)
    preprocessing = config.preprocessing
    survival = follow(load(folder), sample.tensor(mean=preprocessing.mean, std=preprocessing.std), config.shape)
    view = TokenView(
        pixels=sample.pixels,
        captions=tuple(_captions(config, sample, survival)),
        grid=config.shape.grid,
        survival=survival,
        head_reads_patches=not config.shape.reads_prefix_alone,
    )
    panels = _panels(config, view)
    return Picture(png=_encoded([_head(config, view), *panels]), html=_page(config, view, _encoded(panels)))


def write_pictures(folder: Path, sample: Sample) -> tuple[Path, Path]:
    """Beside the model, as a PNG and as a page."""
    picture = picture_of(folder, sample)
    (folder / PNG).write_bytes(picture.png)
    (folder / PAGE).write_text(picture.html, encoding="utf-8")
    return folder / PNG, folder / PAGE


def title_of(config: SlimConfig) -> str:
    return f"{config.architecture.name}, slimmed by {' + '.join(step.method for step in config.recipe.steps)}"


def cost_of(config: SlimConfig) -> str:
    flops = config.flops
    bound = f" {'on average' if flops.bound == 'mean' else 'at most'}" if flops.varies else ""
    share = f"{flops.held / flops.dense:.1%} of the dense {format_flops(flops.dense)}"
    score = config.score_on("test")
    measured = "" if score is None else f"; {config.score.title} {config.score.text(score, 2)} on the test images"
    return f"{format_flops(flops.held)} multiply-accumulates per image{bound}, {share}, budget {flops.budget_label}{measured}"


def _head(config: SlimConfig, view: TokenView) -> Image.Image:
    head = Image.new("RGB", (1240, 72), PAPER)
    for top, text, size, colour in (
        (0, title_of(config), 20, INK),
        (30, cost_of(config), 14, SOFT),
        (50, _caption(view), 14, SOFT),
    ):
        write(head, (0, top), text, size=size, colour=colour)
    return head


def _panels(config: SlimConfig, view: TokenView) -> list[Image.Image]:
    return [
        *([draw_tokens(view)] if _patches_go(view) else []),
        draw_widths(config.shape, config.plan, capped=config.flops.varies),
    ]


def _encoded(panels: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    framed(stack(panels, gap=18), margin=24).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _patches_go(view: TokenView) -> bool:
    return len(view.columns()) > 1


def _caption(view: TokenView) -> str:
    if not _patches_go(view):
        return "All patches of every image take part in all blocks."
    if view.survival.mixed:
        return "A patch is as bright as its weight in the tokens of that block; undimmed from an even share of them on."
    return "Grey: the patch was dropped and is no key or value of that block any more."


def _captions(config: SlimConfig, sample: Sample, survival: Survival) -> list[str]:
    if not config.classes:
        return [f"image {number}" for number in range(1, len(sample.pixels) + 1)]
    guesses = [config.classes[index] for index in survival.logits.argmax(dim=1).tolist()]
    names = [sample.classes[label] for label in sample.labels.tolist()]
    return [name if name == guess else f"{name}, taken for {guess}" for name, guess in zip(names, guesses, strict=True)]


def _page(config: SlimConfig, view: TokenView, png: bytes) -> str:
    title = title_of(config)
    data = base64.b64encode(png).decode()
    described = f"{_caption(view)} The table below holds the numbers of each block."
    body = f"""<main>
<h1>{escape(title)}</h1>
<p>{escape(cost_of(config))}</p>
<p>{escape(_caption(view))}</p>
<div class="plot"><img src="data:image/png;base64,{data}" alt="{escape(described)}"></div>
{_table(config, view)}
</main>"""
    return render_document(title=title, style=read_resource("picture.css"), body=body, images=True)


def _table(config: SlimConfig, view: TokenView) -> str:
    heads = ["Block", "Patches here", "Tokens: keys and values", "Queries", "MLP", "Heads x width", "Hidden units"]
    shape = config.shape
    rows = [["dense", str(shape.patches), *[str(shape.tokens)] * 3, f"{shape.heads} x {shape.head_width}", str(shape.hidden)]]
    for index, block in enumerate(config.plan.blocks):
        tokens = [str(block.tokens_kv), str(block.tokens_q), str(block.tokens_mlp)]
        rows.append([str(index), _seen(view, index), *tokens, f"{block.heads} x {block.head_width}", str(block.hidden)])
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _seen(view: TokenView, block: int) -> str:
    """On the images of the picture: one number, or from which to which."""
    counts = view.survival.counts[block]
    low, high = int(counts.min()), int(counts.max())
    many = f"{low}" if low == high else f"{low} to {high}"
    return f"in {many} tokens" if view.survival.mixed else many
