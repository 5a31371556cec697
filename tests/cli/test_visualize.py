import copy
import html.parser
import io
import re
import shutil

import pytest
import torch
from helpers.tiny import config_of, make_dense, slim
from PIL import Image

from autoslim.export.artifact import load_config, save
from autoslim.models import write_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A slimmed model of the digits' ten classes, and a dense one."""
    root = tmp_path_factory.mktemp("models")
    dense = make_dense()
    finished = slim("life_regression", dense)
    save(root / "slim", finished.model, config_of("life_regression", dense, finished))
    wide = slim("vit_slim", dense)
    save(root / "narrow", wide.model, config_of("vit_slim", dense, wide))
    write_folder(
        root / "dense",
        dense.module,
        dense.architecture,
        preprocessing=dense.preprocessing,
        classes=tuple(f"class {n}" for n in range(10)),
    )
    tall = make_dense(img_size=(32, 64))
    cut = slim("life_regression", copy.deepcopy(tall))
    save(root / "wide image", cut.model, config_of("life_regression", tall, cut))
    return root


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag == "img":
            self.sources.append(dict(attributes)["src"])

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1].append(data)


@pytest.mark.parametrize("name", ["slim", "narrow", "wide image"])
def test_picture_and_page_lie_beside_the_model(autoslim, models, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(models / name, folder)
    code, out, err = autoslim("visualize", str(folder), "--data", "digits", "--images", "3")
    assert code == 0, err
    assert out.split() == [str(folder / "picture.html"), str(folder / "picture.png")]
    with Image.open(folder / "picture.png") as image:
        image.load()
        assert image.width > 600
    text = (folder / "picture.html").read_text()
    page, plan = Page(text), load_config(folder).plan
    assert page.sources[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?://|<script|url\(", text)
    blocks = page.rows[-len(plan.blocks) :]
    assert [row[2:5] for row in blocks] == [[str(b.tokens_kv), str(b.tokens_q), str(b.tokens_mlp)] for b in plan.blocks]
    assert [row[1] for row in blocks] == [str(block.tokens_kv - 1) for block in plan.blocks]
    assert [row[5:] for row in blocks] == [[f"{b.heads} x {b.head_width}", str(b.hidden)] for b in plan.blocks]


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_output_is_the_one_file_that_is_asked_for(autoslim, models, tmp_path, suffix):
    before = sorted(path.name for path in (models / "slim").iterdir())
    code, out, _ = autoslim(
        "visualize", str(models / "slim"), "--data", "digits", "--output", f"seen/it.{suffix}", "--images", "2"
    )
    assert code == 0
    assert out.strip() == f"seen/it.{suffix}"
    assert [path.name for path in (tmp_path / "seen").iterdir()] == [f"it.{suffix}"]
    assert sorted(path.name for path in (models / "slim").iterdir()) == before


def test_the_same_images_are_drawn_each_time(autoslim, models, tmp_path):
    for name in ("one.png", "two.png"):
        autoslim("visualize", str(models / "slim"), "--data", "digits", "--output", name, "--images", "2")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_an_unreadable_image_gives_its_place_to_another(autoslim, models, tmp_path):
    for split in ("train", "test"):
        for number, label in enumerate("ab"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(20):
                Image.new("RGB", (16, 16), (number * 200, index * 5, 0)).save(folder / f"{index:02}.png")
    (tmp_path / "data" / "test" / "a" / "00.png").write_bytes(b"broken")
    code, _, err = autoslim("visualize", str(models / "slim"), "--data", "data", "--images", "2", "--output", "x.png")
    assert code == 0, err
    assert Image.open(io.BytesIO((tmp_path / "x.png").read_bytes())).width > 600


@pytest.mark.parametrize(
    ("folder", "arguments", "said"),
    [
        ("dense", ["--data", "digits"], "not a slimmed model's configuration"),
        ("nowhere", ["--data", "digits"], "holds no slimmed model"),
        ("slim", ["--data", "nowhere"], "'nowhere' does not exist; allowed"),
        ("slim", ["--data", "digits", "--split", "dev"], "--split is 'dev'; allowed: train, validation, test"),
        ("slim", ["--data", "digits", "--images", "0"], "--images is 0; allowed: 1 to 64"),
        ("slim", ["--data", "digits", "--output", "it.pdf"], "--output is 'it.pdf'; allowed: a file ending in .png or .html"),
        ("slim", ["--data", "digits", "--output", "file/it.png"], "--output file/it.png cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(autoslim, models, tmp_path, folder, arguments, said):
    (tmp_path / "file").write_text("in the way")
    code, out, err = autoslim("visualize", str(models / folder), *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert said in err


def test_visualising_changes_no_random_numbers_and_no_weights(models):
    from autoslim.core.job import DatasetSpec
    from autoslim.data import sample_source
    from autoslim.report.picture import picture_of

    before = (models / "slim" / "model.safetensors").read_bytes()
    state = torch.get_rng_state()
    picture_of(models / "slim", sample_source(DatasetSpec(source="digits"), "test", (32, 32), 0.9, 2, seed=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert (models / "slim" / "model.safetensors").read_bytes() == before
