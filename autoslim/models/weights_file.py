"""Reads weights from a file as people have it, without running code that the file may contain.

What a file is, its first bytes say, whatever its name. Training scripts wrap weights in dictionaries and prefix their names; which part of
a file is taken is returned with the weights, for the user to see.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from autoslim.core.job import WEIGHT_FILES
from autoslim.errors import WeightsError

_HEAD = 512
"""Bytes that tell what a file is."""

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher")
"""Entries in which training scripts keep weights, the first one there wins: averaged weights before plain ones, as timm takes them."""

_DEPTH = 4
"""Entries within entries that are looked into: a pickle may hold a dictionary that holds itself."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
"""What DataParallel, torch.compile, Lightning and self-supervised training put in front of parameters' names."""

_DECODER = ("decoder_", "decoder.")
"""In front of the names of the part of a masked autoencoder that is thrown away."""

_INDEX = ".index.json"
"""End of the name of what says which of several files holds a parameter."""


class StoredWeights(NamedTuple):
    """Tensors by name, and what of the file they are: empty where they are all there is."""

    state: dict[str, Tensor]
    part: str


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """As `read_weights`, the tensors alone."""
    return read_weights(path).state


def read_weights(path: Path) -> StoredWeights:
    """Tensors by name from a safetensors file, or from a torch file that holds nothing but tensors and plain settings.

    Raises:
        WeightsError: when the file is missing, broken or something else, or a pickle that holds more (it is refused, not run), or when a
            tensor is not finite.
    """
    if path.is_dir():
        raise WeightsError(f"weights file {path} is a folder; {_in_folder(path)}")
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    content, part = _unwrap(_load(path), path)
    state, prefix, left_out = _without_prefix(content)
    whole = len(state)
    if any(name.startswith(_DECODER) for name in state):
        # A masked autoencoder: its decoder, and the token in the place of hidden patches, are no part of the model.
        state = {name: value for name, value in state.items() if not name.startswith(_DECODER) and name != "mask_token"}
    left_out += whole - len(state)
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                f"weights file {path}: {name} has values that are not finite; the training that wrote it has failed"
            )
    others = f"tensors of other parts left out: {left_out}" if left_out else ""
    prefixed = f"without the prefix {prefix!r}" if prefix else ""
    return StoredWeights(state, ", ".join(filter(None, (part, prefixed, others))))


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    # A safetensors file begins with the length of its header, which is JSON.
    if head[8:9] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"weights file {path} is a safetensors file that cannot be read: {error}; is it whole?") from error
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(f"weights file {path} {_what_else(head)}")
    try:
        _refuse_packed(path)
        # timm's train.py stores its arguments beside the weights: a Namespace is a container, and holds what is allowed without it.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError) as error:
        raise WeightsError(
            f"weights file {path} is a pickle that holds more than tensors; it was refused, not run. "
            "Save a state dict as safetensors instead"
        ) from error
    # Bytes that only look like a pickle fail in the reader in whichever way they happen to.
    except Exception as error:
        raise WeightsError(f"weights file {path} cannot be read ({type(error).__name__}: {error}); is it whole?") from error


def _what_else(head: bytes) -> str:
    """What a file is that holds no weights, from its first bytes."""
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves; `git lfs pull` fetches them"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "is a web page, not weights: the download has failed, or asks for a login"
    if text.startswith((b"{", b"[")):
        return f"is a JSON file, not weights; where it is an index of several files, {_JOIN}"
    if head.startswith(b"\x1f\x8b"):
        return "is packed with gzip; unpack it with gunzip first"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, as Keras writes it; convert its arrays to a state dict with the names of timm, and save it as safetensors"
    try:
        words = head.decode().split("\n")[0].strip()
    except UnicodeDecodeError:
        words = ""
    if words.isprintable() and words:
        return f"is a text file, not weights; it begins with {words[:60]!r}"
    return "is no weights file; allowed: safetensors, or as torch.save writes it"


_JOIN = "join them into one file: load each with safetensors.torch.load_file, and save all tensors together with save_file"


def _in_folder(folder: Path) -> str:
    """What to give instead of it."""
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" in names and "model.safetensors" in names:
        return f"as one in timm's hub format it is given as --model {folder}"
    if any(name.endswith(_INDEX) for name in names):
        return f"its weights are in several files; {_JOIN}"
    files = [name for name in names if name.endswith(WEIGHT_FILES)]
    return (
        f"give one of its files: {', '.join(files[:5])}" if files else f"allowed: a file that ends in {', '.join(WEIGHT_FILES)}"
    )


def _refuse_packed(path: Path) -> None:
    """Refuses archives of something else, and compressed ones: torch writes none, but would unpack any, to any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if names and all(name.endswith(".npy") for name in names):
        raise WeightsError(
            f"weights file {path} is a NumPy archive, as JAX programs write; timm has the published ones under their models' names, and "
            "others have to be saved as a state dict with the names of timm"
        )
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise WeightsError(
            f"weights file {path} is a TorchScript archive, which holds a program; it was refused, not run. Save the model's state dict "
            "instead"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError(f"weights file {path} is a compressed archive; allowed: as torch.save writes it, or safetensors")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise WeightsError(f"weights file {path} unpacks to more than it holds; save a state dict as safetensors instead")


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors by name, and under which entries of the file they were, where there is more than one."""
    entries: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping) or _is_state(content):
            break
        inner = [name for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
        # One entry of weights, and nothing to choose between, is not worth a word.
        entries += inner[:1] if len(inner) > 1 or inner[0] != "state_dict" else []
    if not isinstance(content, Mapping) or not _is_state(content):
        keys = f"; its entries are {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
        raise WeightsError(f"weights file {path} is not a state dict: expected tensors by parameter name{keys}")
    return dict(content), " of ".join(reversed(entries))


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str, int]:
    """The tensors under the names that most of them have behind known prefixes, these prefixes, and how many have them not."""
    prefix, left_out = "", 0
    while found := [known for known in _PREFIXES if _is_prefix(known, state)]:
        own = {name.removeprefix(found[0]): value for name, value in state.items() if name.startswith(found[0])}
        prefix, left_out, state = prefix + found[0], left_out + len(state) - len(own), own
    return state, prefix, left_out


def _is_prefix(prefix: str, state: Mapping[str, Tensor]) -> bool:
    """Whether most names have it. Other libraries' models have an `encoder` of their own, without timm's names in it."""
    if prefix == "encoder." and not any(name.startswith(("encoder.blocks.", "encoder.patch_embed.")) for name in state):
        return False
    return 2 * sum(name.startswith(prefix) for name in state) > len(state)
