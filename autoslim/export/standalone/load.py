"""Classifies images: python load.py IMAGE ... (needs numpy, pillow and onnxruntime)."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(__file__).parent
CONFIG = json.loads((FOLDER / "config.json").read_text())
HOW = CONFIG["preprocessing"]


def opened(name):
    """As RGB: transparency over white, of 16-bit grey the upper eight bits."""
    image = Image.open(name)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def prepare(image):
    """An RGB image as (1, 3, height, width): scaled until the shorter side fits, the centre cut out, normalised."""
    height, width = CONFIG["shape"]["image_size"]
    tall, wide = (math.ceil(side / HOW["crop_pct"] - 1e-6) for side in (height, width))
    scale = min(image.width / wide, image.height / tall)
    left, top = (image.width - wide * scale) / 2, (image.height - tall * scale) / 2
    box = (left, top, min(left + wide * scale, image.width), min(top + tall * scale, image.height))
    image = image.resize((wide, tall), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(image.crop(((wide - width) // 2, (tall - height) // 2, (wide + width) // 2, (tall + height) // 2)))
    return (((pixels / 255 - HOW["mean"]) / HOW["std"]).transpose(2, 0, 1)[None]).astype(np.float32)


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    for name in sys.argv[1:]:
        logits = session.run(None, {"images": prepare(opened(name))})[0][0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = shares.argsort()[::-1][:3]
        print(f"{name}: " + ", ".join(f"{CONFIG['classes'][number]} {shares[number]:.1%}" for number in best))
