"""Writes the folder of a new method's model that later versions must be able to load.

    PYTHONPATH=tests python -m helpers.keep_folder METHOD

A folder that is there already stays as it is: what has been written once is what has to stay readable.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from helpers.tiny import config_of, images, logits, make_dense, slim

from autoslim.export.artifact import FORMAT, save

FOLDERS = Path(__file__).parents[1] / "artifacts" / f"format-{FORMAT}"

# The smallest that has all parts: a folder takes some 40 kB of the repository.
SMALLEST = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}


def keep_folder(method: str, folders: Path = FOLDERS) -> Path:
    """The new folder, with the logits of two images.

    Raises:
        FileExistsError: when the method has a folder.
    """
    folder = folders / method
    folder.mkdir()
    dense = make_dense("vit", **SMALLEST)
    finished = slim(method, dense)
    save(folder, finished.model, config_of(method, dense, finished))
    (folder / "logits.json").write_text(json.dumps(logits(finished.model, images(2, size=16)).tolist()))
    return folder


if __name__ == "__main__":
    print(keep_folder(sys.argv[1]))
