"""Classifies images: python load.py IMAGE ... (needs numpy, pillow and onnxruntime)."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(__file__).parent
config = json.loads((folder / "config.json").read_text())
how, (height, width) = config["preprocessing"], config["shape"]["image_size"]
whole = tuple(math.ceil(side / how["crop_pct"] - 1e-6) for side in (width, height))
left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
for name in sys.argv[1:]:
    image = Image.open(name)
    if image.mode[0] == "I":  # of 16-bit grey the upper eight bits
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    image = ImageOps.fit(image, whole, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    pixels = ((np.asarray(image) / 255 - how["mean"]) / how["std"]).astype(np.float32)
    logits = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{name}: " + ", ".join(f"{config['classes'][best]} {shares[best]:.1%}" for best in shares.argsort()[:-4:-1]))
