"""Classifies images, or writes their features: python load.py IMAGE ... (needs numpy, pillow and onnxruntime)."""

import io
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


def read(name):
    """The pixels as in training: turned as the camera says, transparency over white, of 16-bit grey the upper eight bits."""
    # From memory: Pillow maps some TIFF files, and does not turn those in the same way.
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(Path(name).read_bytes())))
    if image.mode[0] == "I":
        grey = np.asarray(image)
        clear = grey == image.info.get("transparency", -1)
        image = Image.fromarray(np.where(clear, 255, (grey // 256).clip(0, 255)).astype(np.uint8))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    scale = min(image.width / whole[0], image.height / whole[1])
    x, y = max(0.0, (image.width - whole[0] * scale) / 2), max(0.0, (image.height - whole[1] * scale) / 2)
    box = (x, y, min(x + whole[0] * scale, image.width), min(y + whole[1] * scale, image.height))
    covering = image.resize(whole, Image.Resampling.BICUBIC, box=box)
    return np.asarray(covering.crop((left, top, left + width, top + height)))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    unread = 0
    for name in sys.argv[1:]:
        try:
            image = read(name)
        except OSError as error:
            # The other images are answered.
            print(f"{name} cannot be read: {error}", file=sys.stderr)
            unread += 1
            continue
        pixels = ((image / 255 - how["mean"]) / how["std"]).astype(np.float32)
        outputs = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
        if not config["classes"]:  # features: `pooled` (D,), and `patches` (rows, columns, D) at their places
            pooled, tokens = outputs[0][0], outputs[1][0]
            patches = tokens[config["shape"]["prefix_tokens"] :].reshape(*config["shape"]["grid"], -1)
            np.savez(f"{name}.features.npz", pooled=pooled, patches=patches)
            print(f"{name}: {name}.features.npz, pooled {pooled.shape}, patches {patches.shape}")
            continue
        logits = outputs[0][0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(f"{name}: " + ", ".join(f"{config['classes'][best]} {shares[best]:.1%}" for best in shares.argsort()[:-4:-1]))
    sys.exit(unread > 0)
