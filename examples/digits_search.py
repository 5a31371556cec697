"""The small search that the callbacks of this folder follow: scikit-learn's digits, six trials of two epochs."""

from __future__ import annotations

import autoslim


def search_digits(callback: autoslim.SearchCallback, output: str) -> autoslim.SearchResult:
    return autoslim.run_search(
        "deit_tiny_patch16_224",
        "digits",
        ["70%", "50%"],
        output=output,
        callbacks=[callback],
        weights="scratch",
        image_size=24,
        model_args={"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4},
        trials=6,
        epochs=2,
        base_epochs=10,
    )
