"""Data sets as they come, and what autoslim makes of each: the table in `docs/data.md`.

`python tests/helpers/layouts.py` writes the table anew; `tests/documents/test_layouts.py` holds it against the code.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
from autoslim.errors import DatasetError

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- layouts: begin -->\n", "<!-- layouts: end -->\n"
_NAMES = ("ant", "bee")
_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Maker:
    """Writes data sets into one folder; no image is written twice."""

    def __init__(self, root: Path) -> None:
        self.root, self._count = root, 0

    def picture(self) -> bytes:
        self._count += 1
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(self._count).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def images(self, *folders: str, count: int = 10, suffix: str = ".png") -> None:
        for folder in folders:
            (self.root / folder).mkdir(parents=True)
            for number in range(count):
                (self.root / folder / f"{number}{suffix}").write_bytes(self.picture())

    def classes(self, *splits: str, count: int = 10) -> None:
        self.images(*(f"{split}/{name}" for split in splits for name in _NAMES), count=count)

    def table(self, count: int, *, image: str = "image", label: str = "label", texts: bool = True) -> pa.Table:
        labels = [_NAMES[number % 2] if texts else number % 2 for number in range(count)]
        return pa.table({image: pa.array([{"bytes": self.picture(), "path": None} for _ in labels], _STRUCT), label: labels})

    def parquet(self, name: str, table: pa.Table) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.root / name)

    def arrow(self, folder: str, table: pa.Table) -> None:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        with (
            pa.OSFile(str(self.root / folder / "data-00000-of-00001.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table)
        self.text(f"{folder}/state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))

    def tar(self, name: str, count: int, *, kind: str = "cls") -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.root / name, "w") as out:
            for number in range(count):
                for end, data in (("png", self.picture()), (kind, _NAMES[number % 2].encode())):
                    head = tarfile.TarInfo(f"{number:06}.{end}")
                    head.size = len(data)
                    out.addfile(head, io.BytesIO(data))

    def text(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def manifest(self, name: str, count: int, *, head: str = "path,label", more: str = "") -> None:
        self.images("images", count=count)
        rows = "".join(f"images/{number}.png,{_NAMES[number % 2]}{more}\n" for number in range(count))
        self.text(name, f"{head}\n{rows}")


Layout = tuple[str, str, Callable[[Maker], None], dict[str, str]]
"""What it is, what is given as --data (below DIR), what writes it, and the choices."""


def layouts() -> list[Layout]:
    def hub(make: Maker) -> None:
        for number in range(2):
            make.parquet(f"data/train-0000{number}-of-00002.parquet", make.table(20))
        make.parquet("data/test-00000-of-00001.parquet", make.table(6))

    def configurations(make: Maker) -> None:
        for name in ("large", "small"):
            make.parquet(f"{name}/train-00000-of-00001.parquet", make.table(20))

    def saved(make: Maker) -> None:
        make.arrow("train", make.table(20))
        make.arrow("test", make.table(6))
        make.text("dataset_dict.json", json.dumps({"splits": ["train", "test"]}))

    def tars(make: Maker) -> None:
        for number in range(3):
            make.tar(f"train-00000{number}.tar", 10)

    def splits_in_a_column(make: Maker) -> None:
        make.images("images", count=30)
        splits = ["train", "train", "val", "test", "train"]
        rows = "".join(f"images/{number}.png,{_NAMES[number % 2]},{splits[number % 5]}\n" for number in range(30))
        make.text("all.csv", f"path,label,split\n{rows}")

    def lines(make: Maker) -> None:
        make.images("images", count=20)
        rows = [{"file_name": f"images/{number}.png", "class": _NAMES[number % 2]} for number in range(20)]
        make.text("all.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def coarse(make: Maker) -> None:
        make.parquet(
            "train.parquet", make.table(20, image="img", label="fine_label").append_column("coarse_label", pa.array([0, 1] * 10))
        )

    def paths_out(make: Maker) -> None:
        make.images("images", count=2)
        make.text("all.csv", "path,label\nimages/0.png,ant\n../secret.png,bee\n")

    def image_folder(make: Maker) -> None:
        for split, count in (("train", 20), ("test", 6)):
            make.images(split, count=count)
            rows = [f"{number}.png,{_NAMES[number % 2]}\n" for number in range(count)]
            make.text(f"{split}/metadata.csv", "".join(["file_name,label\n", *rows]))

    return [
        ("class folders", ".", lambda make: make.classes("."), {}),
        ("splits of class folders", ".", lambda make: make.classes("Train", "valid", "TEST"), {}),
        ("splits without train", ".", lambda make: make.classes("val", "test"), {}),
        ("two folders for one split", ".", lambda make: make.classes("train", "val", "dev"), {}),
        ("a folder beside the splits, other files", ".", _with_others, {}),
        ("class folders in further folders", ".", lambda make: make.images("ant/red", "ant/black", "bee/wild", "bee/tame"), {}),
        ("class folders one folder deeper", ".", lambda make: make.classes("photos", "__MACOSX"), {}),
        ("folds, or other parts of a data set", ".", lambda make: make.classes("fold1", "fold2"), {}),
        ("the hub's image folder with `metadata.csv`", ".", image_folder, {}),
        ("images without class folders", ".", lambda make: make.images("train", count=4), {}),
        ("a Parquet file", "all.parquet", lambda make: make.parquet("all.parquet", make.table(20)), {}),
        (
            "Parquet with other columns",
            "all.parquet",
            lambda make: make.parquet("all.parquet", make.table(20, image="img", label="species")),
            {},
        ),
        ("Parquet with two columns of labels", ".", coarse, {}),
        ("the same, with `--label-column fine_label`", ".", coarse, {"label_column": "fine_label"}),
        ("the hub's shards", ".", hub, {}),
        ("the hub's configurations", ".", configurations, {}),
        ("the same, with `--data-config large`", ".", configurations, {"config": "large"}),
        ("a folder of `save_to_disk`", ".", saved, {}),
        ("WebDataset tars", ".", tars, {}),
        ("WebDataset tars by a range", "train-{000000..000002}.tar", tars, {}),
        ("a tar with pickles", "all.tar", lambda make: make.tar("all.tar", 4, kind="pyd"), {}),
        ("a CSV of paths", "all.csv", lambda make: make.manifest("all.csv", 20), {}),
        ("a CSV with a column `split`", "all.csv", splits_in_a_column, {}),
        ("JSON lines of paths", "all.jsonl", lines, {}),
        (
            "a CSV without the names of its columns",
            "all.csv",
            lambda make: make.manifest("all.csv", 4, head="images/x.png,ant"),
            {},
        ),
        ("a CSV with a path out of its folder", "all.csv", paths_out, {}),
        ("a folder of images and a CSV", ".", lambda make: make.text("labels.csv", "path,label\n"), {}),
        ("columns of a folder of images", ".", lambda make: make.classes("."), {"label_column": "species"}),
        ("a packed folder", "all.zip", lambda make: make.text("all.zip", "PK"), {}),
        ("packed arrays", "arrays.npz", lambda make: make.text("arrays.npz", "PK"), {}),
        ("nothing", "nowhere", lambda make: None, {}),
    ]


def _with_others(make: Maker) -> None:
    make.classes("train", "test")
    make.images("extra", count=1)
    make.text("labels.txt", "")
    make.text("train/ant/notes.md", "")


def outcomes(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Of each layout: what it is, what is given, whether it is taken, and what is said."""
    for number, (name, given, write, choices) in enumerate(layouts()):
        root = folder / str(number)
        root.mkdir()
        write(Maker(root))
        source = str(root) if given == "." else str(root / given)
        try:
            report = prepare_dataset(DatasetSpec(source=source, **choices), folder / "cache", seed=0).report
            taken, said = "taken", "; ".join(report.lines(precision=False))
        except DatasetError as error:
            taken, said = "refused", str(error)
        shown = "DIR" if given == "." else f"DIR/{given}"
        yield name, f"`{shown}`", taken, said.replace(str(root), "DIR")


def table(folder: Path) -> str:
    rows = ["| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |\n" for row in outcomes(folder)]
    return "".join(["| Layout | `--data` | | What is said |\n", "|---|---|---|---|\n", *rows])


def main() -> None:
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    with tempfile.TemporaryDirectory() as folder:
        DOCUMENT.write_text(before + BEGIN + "\n" + table(Path(folder)) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    sys.exit(main())
