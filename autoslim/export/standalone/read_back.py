"""Runs a form on images where autoslim cannot be imported: `python -P read_back.py FORM PATH IMAGES.npy LOGITS.npz`."""

import importlib.abc
import sys
import warnings

warnings.simplefilter("ignore")

FORM, PATH, IMAGES, LOGITS = sys.argv[1:]
BLOCKED = {
    "onnx": ("autoslim", "workers", "search_spaces", "timm", "torch", "torchvision"),
    "pt2": ("autoslim", "workers", "search_spaces", "timm", "torchvision"),
    "timm": ("autoslim", "workers", "search_spaces"),
}[FORM]


class BlockingFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked: the form {FORM} must load without it")
        return None


sys.meta_path.insert(0, BlockingFinder())

import numpy as np  # noqa: E402 - after the finder


def load_classifier():
    """A function from images (B, 3, H, W) to logits (B, C), both numpy's."""
    if FORM == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"images": images})[0]
    import torch

    if FORM == "pt2":
        module = torch.export.load(PATH).module()
    else:
        import timm

        module = timm.create_model(f"local-dir:{PATH}", pretrained=True).eval()

    def run(images):
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


classify = load_classifier()
images = np.load(IMAGES)
single = np.concatenate([classify(images[number : number + 1]) for number in range(len(images))])
np.savez(LOGITS, single=single, batch=classify(images))
