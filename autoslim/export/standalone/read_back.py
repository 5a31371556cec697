"""Runs a form on images where autoslim cannot be imported: `python -P read_back.py FORM PATH IMAGES.npy OUTPUTS.npz`.

Further images of the same size come as float32 from stdin; the classes that the form answers for them go to the outputs, too.
"""

import importlib.abc
import sys
import warnings

warnings.simplefilter("ignore")

FORM, PATH, IMAGES, OUTPUTS = sys.argv[1:]
OURS = ("autoslim", "workers", "search_spaces")
BLOCKED = {
    "onnx": (*OURS, "timm", "torch", "torchvision"),
    "onnx-int8": (*OURS, "timm", "torch", "torchvision"),
    "openvino": (*OURS, "timm", "torch", "torchvision", "onnx", "onnxruntime"),
    "pt2": (*OURS, "timm", "torchvision"),
    "timm": OURS,
}[FORM]
FED = 64  # images at once


class BlockingFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked: the form {FORM} must load without it")
        return None


sys.meta_path.insert(0, BlockingFinder())

import numpy as np  # noqa: E402 - after the finder


def load_form():
    """A function from images (B, 3, H, W) to the list of outputs, all numpy's."""
    if FORM.startswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})
    if FORM == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(f"{PATH}/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda images: [output.copy() for output in compiled([images]).values()]
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


def answers():
    """The class with the highest logit for each image that is fed."""
    size, found = images[:1].nbytes, [np.empty(0, np.int64)]
    while data := sys.stdin.buffer.read(FED * size):
        found.append(run_form(np.frombuffer(data, np.float32).reshape(-1, *images.shape[1:]))[0].argmax(axis=1))
    return np.concatenate(found)


run_form = load_form()
images = np.load(IMAGES)
single = [np.concatenate(outputs) for outputs in zip(*(run_form(images[n : n + 1]) for n in range(len(images))), strict=True)]
found = {f"single {number}": output for number, output in enumerate(single)}
found |= {f"batch {number}": output for number, output in enumerate(run_form(images))}
np.savez(OUTPUTS, **found, answers=answers())
