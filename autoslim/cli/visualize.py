"""`autoslim visualize`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from autoslim.core.job import DatasetSpec
from autoslim.errors import OutputError, RequestError

MAX_IMAGES = 64
"""Every image is a row of a picture; more make it too tall to be viewed."""


def visualize_folder(
    folder: Path, dataset: DatasetSpec, *, images: int, split: str, seed: int, output: Path | None, as_json: bool = False
) -> None:
    """Checks all arguments before it opens the data set.

    Raises:
        RequestError: for a split, a number of images or a file name that is not allowed.
        OutputError: when a file cannot be written.
    """
    from autoslim.data import sample_source
    from autoslim.data.dataset import SPLITS
    from autoslim.export.artifact import load_config
    from autoslim.report.picture import PAGE, PNG, picture_of

    if split not in SPLITS:
        raise RequestError(f"--split is {split!r}; allowed: {', '.join(SPLITS)}")
    if not 1 <= images <= MAX_IMAGES:
        raise RequestError(f"--images is {images}; allowed: 1 to {MAX_IMAGES}")
    if output is not None and output.suffix.lower() not in (".png", ".html"):
        raise RequestError(f"--output is {str(output)!r}; allowed: a file ending in .png or .html")
    config = load_config(folder)
    size = config.shape.image_size
    # Images of features have no classes.
    dataset = dataset.replace(labelled=bool(config.classes))
    sample = sample_source(dataset, split, size, config.preprocessing.crop_pct, images, seed=seed)
    picture = picture_of(folder, sample)
    files = [folder / PAGE, folder / PNG] if output is None else [output]
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture.png if file.suffix.lower() == ".png" else picture.html.encode())
        except OSError as error:
            raise OutputError(f"--output {file} cannot be written: {error.strerror}") from error
    sys.stdout.write(
        json.dumps({"files": [str(file) for file in files]}) + "\n" if as_json else "".join(f"{file}\n" for file in files)
    )
