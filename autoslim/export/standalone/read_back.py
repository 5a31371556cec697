"""Runs a form on images where autoslim cannot be imported: `python -P read_back.py FORM PATH IMAGES.npy OUTPUTS.npz`."""

import importlib.abc
import sys
import warnings

warnings.simplefilter("ignore")

FORM, PATH, IMAGES, OUTPUTS = sys.argv[1:]
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


def load_form():
    """A function from images (B, 3, H, W) to the list of outputs, all numpy's."""
    if FORM == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})
    import torch

    if FORM == "pt2":
        module = torch.export.load(PATH).module()
    else:
        import timm

        module = timm.create_model(f"local-dir:{PATH}", pretrained=True).eval()

    def run(images):
        with torch.no_grad():
            found = module(torch.from_numpy(images))
        return [each.numpy() for each in (found if isinstance(found, list | tuple) else [found])]

    return run


run_form = load_form()
images = np.load(IMAGES)
single = [np.concatenate(outputs) for outputs in zip(*(run_form(images[n : n + 1]) for n in range(len(images))), strict=True)]
found = {f"single {number}": output for number, output in enumerate(single)}
found |= {f"batch {number}": output for number, output in enumerate(run_form(images))}
np.savez(OUTPUTS, **found)
