"""The name of this machine's processors, and the device to measure on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware() -> str:
    """The CPU's name, and the GPU's where there is one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), name
        )
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
