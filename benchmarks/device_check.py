"""Whether this machine's GPU gets what it could: one command, at most eight minutes, no network.

    python benchmarks/device_check.py --output device_check.json [--small] [--only training,search]

Needed are PyTorch, timm and autoslim's wheel with the wheels of its base install; the search needs those of `autoslim[search]`, too. Where
something is missing, or no time is left, the part is skipped and says why. The models have random weights, and the images are drawn.

- training: images a second of DeiT-S and of each method's form of it at half of the FLOPs, in the precision that the device is fastest in;
  the share of the time that waits for images; the dense model in each precision, in parts, with activations computed again, compiled.
- eager, compiled: latency at batch 1 and throughput at batch 256, each form beside the dense model, and the share of the FLOPs' ratio that
  arrives as time: as they are, in ONNX Runtime, compiled, and as CUDA graphs.
- latency: the error of the latency table's predictions.
- memory: a trial whose batch does not fit.
- search: three trials, two at a time on one device.

Everything goes into one JSON file and one table. `--small` is everything in little, for a CPU: it shows that the script runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from device_parts import inference, latency, memory, search, training
from device_parts.extent import FULL, SMALL, Clock, Extent, Finding

from autoslim.core.record import Record
from autoslim.export.profiling.hardware import hardware

Part = Callable[[Extent, Clock, Path], Iterator[Finding]]

PARTS: dict[str, tuple[Part, float]] = {
    "training": (training.findings, 110.0),
    "eager": (inference.eager, 45.0),
    "compiled": (inference.compiled, 100.0),
    "latency": (latency.findings, 65.0),
    "memory": (memory.findings, 25.0),
    "search": (search.findings, 65.0),
}
"""Each part with its seconds. With those of `_GRACE`, and as many for the script's own imports, they are eight minutes together."""
_GRACE = 10.0
"""Seconds that a part may take more, for its imports and its last measurement: beyond them it is ended."""
_SMALL_TIMES = 6
"""How much longer a part may take in little, which is to show that it runs, also on a slow CPU."""
_SHARES = {"waiting", "of the FLOPs", "of the FLOPs' ratio", "error", "median error", "largest error"}
"""The numbers that are percentages in the table."""
_MARK = "finding "
"""In front of a finding in the output of a part, so that nothing that a library prints is taken for one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Record):
    """`parts` are the findings by part; `seconds` are those of each part."""

    hardware: str
    torch: str
    timm: str
    extent: Extent
    parts: dict[str, list[Finding]]
    seconds: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("device_check.json"))
    parser.add_argument("--small", action="store_true", help="everything in little")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas: {', '.join(PARTS)}")
    # Of the script's own processes.
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    extent = SMALL if arguments.small else FULL
    if arguments.part:
        _run_part(arguments.part, extent, arguments.scratch)
        return
    unknown = [name for name in arguments.only.split(",") if name not in PARTS]
    if unknown:
        parser.error(f"--only has {unknown[0]}; allowed: {', '.join(PARTS)}")
    found, seconds = {}, {}
    for name in arguments.only.split(","):
        began = time.monotonic()
        found[name] = _part_in_process(name, small=arguments.small)
        seconds[name] = round(time.monotonic() - began, 1)
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr, flush=True)
    report = Report(
        hardware=hardware(), torch=torch.__version__, timm=timm.__version__, extent=extent, parts=found, seconds=seconds
    )
    arguments.output.write_text(report.to_json(indent=1) + "\n")
    print(table(report))


def _run_part(name: str, extent: Extent, scratch: Path) -> None:
    warnings.simplefilter("ignore")
    part, seconds = PARTS[name]
    for finding in part(extent, Clock(seconds * _SMALL_TIMES if extent == SMALL else seconds), scratch):
        print(_MARK + finding.to_json(), flush=True)


def _part_in_process(name: str, *, small: bool) -> list[Finding]:
    """A part in a process of its own: it has the whole device, and its end is no other's."""
    # Images that are drawn need no place in the user's cache.
    environment = {**os.environ, "AUTOSLIM_CACHE_LIMIT": "0"}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="autoslim-device-", ignore_cleanup_errors=True))
        out, errors = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        command = [sys.executable, __file__, "--part", name, "--scratch", scratch, *(["--small"] if small else [])]
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment, start_new_session=True)
        limit, why = (PARTS[name][1] + _GRACE) * (_SMALL_TIMES if small else 1), ""
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            why = f"it was ended after {limit:.0f} s"
        finally:
            # With its own processes, such as a search's workers; most often there is none left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        errors.seek(0)
        found = [Finding.from_json(line.removeprefix(_MARK)) for line in out if line.startswith(_MARK)]
        if process.returncode and not why:
            lines = errors.read().strip().splitlines()
            why = f"exit code {process.returncode}: {lines[-1] if lines else 'no error output'}"
    return [*found, *([Finding(what="the rest" if found else "everything", skipped=why)] if why else [])]


def table(report: Report) -> str:
    """One table in Markdown, of everything that was measured or skipped."""
    lines = [f"{report.hardware}; torch {report.torch}, timm {report.timm}; {report.extent.model}", ""]
    lines += ["| Part | What | Result |", "|---|---|---|"]
    for part, findings in report.parts.items():
        for finding in findings:
            numbers = "; ".join(_text(name, value) for name, value in finding.numbers.items())
            result = f"skipped: {finding.skipped}" if finding.skipped else numbers
            lines.append(f"| {part} | {finding.what} | {result.replace('|', ' ')} |")
    return "\n".join(lines)


def _text(name: str, value: float) -> str:
    if name in _SHARES:
        return f"{value:.1%} {name}"
    return f"{value:,.4g} {name}" if value < 10_000 else f"{value:,.0f} {name}"


if __name__ == "__main__":
    main()
