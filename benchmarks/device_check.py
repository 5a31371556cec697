"""Whether this machine's GPU gets what it could: one command, at most eight minutes, no network.

    python benchmarks/device_check.py --output device_check.json [--small] [--only training,compiled]

Needed are PyTorch, timm, autoslim's wheel and those that `docs/gpus.md` lists. Where something is missing, or no time is left, the part is
skipped and says why. The models have random weights, and the images are drawn.

- training: images a second of DeiT-S and of each method's form of it at half of the FLOPs, in the precision that the device is fastest in;
  the share of the time that waits for images; the dense model in each precision, in parts, with activations computed again, and with
  `--only training`, which has the time for it, compiled.
- eager, compiled: latency at batch 1 and throughput at batch 256, each form beside the dense model, and the share of the FLOPs' ratio that
  arrives as time: as they are, in ONNX Runtime, compiled, and as CUDA graphs.
- latency: the error of the latency table's predictions.
- memory: a trial whose batch does not fit.
- search: three trials, two at a time on one device.

The last part has the time that the others leave, so that `--only compiled` compiles for minutes.
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

# The imports below take seconds, which are of the eight minutes.
_BEGAN = time.monotonic()

import timm  # noqa: E402
import torch  # noqa: E402
from device_parts import inference, latency, memory, search, training  # noqa: E402
from device_parts.extent import FULL, SMALL, Clock, Extent, Finding  # noqa: E402

from autoslim.core.record import Record  # noqa: E402
from autoslim.export.profiling.hardware import hardware  # noqa: E402

Part = Callable[[Extent, Clock, Path], Iterator[Finding]]

PARTS: dict[str, tuple[Part, float]] = {
    # Drawing and preparing images, and a second for each of three epochs of eight models, with batches ready and loaded. The settings of
    # the dense model come last, with what is left.
    "training": (training.findings, 75.0),
    # Eight models in two batches, a second each. An ONNX Runtime without GPUs takes none.
    "eager": (inference.eager, 30.0),
    # Kernels of parts of models, each in its own measurement.
    "latency": (latency.findings, 60.0),
    # Three short trainings, whose images are drawn first.
    "memory": (memory.findings, 25.0),
    # Ray's start, and three trials with the imports of their processes.
    "search": (search.findings, 65.0),
    # Eight models compile for 15 to 30 s each, for the batch of one. Those of the larger batch take as long again, and have what the parts
    # before have left: thus it is the last.
    "compiled": (inference.compiled, 155.0),
}
"""Each part with its seconds. Nobody has measured them on a GPU. With those of `_GRACE` they are `_TOTAL` together."""
_TOTAL = 480.0
"""Seconds of all parts and of the script's own imports."""
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
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    extent = SMALL if arguments.small else FULL
    if arguments.part:
        _run_part(arguments.part, extent, arguments.scratch, arguments.seconds)
        return
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"--only has {unknown[0]}; allowed: {', '.join(PARTS)}")
    found, taken, times = {}, dict[str, float](), _SMALL_TIMES if arguments.small else 1
    for name in names:
        began = time.monotonic()
        seconds = seconds_of(name, (began - _BEGAN) / times, last=name == names[-1])
        found[name] = _part_in_process(name, seconds, small=arguments.small)
        taken[name] = round(time.monotonic() - began, 1)
        print(f"{name}: {taken[name]:.0f} s", file=sys.stderr, flush=True)
    report = Report(
        hardware=hardware(), torch=torch.__version__, timm=timm.__version__, extent=extent, parts=found, seconds=taken
    )
    arguments.output.write_text(report.to_json(indent=1) + "\n")
    print(table(report))


def seconds_of(name: str, taken: float, *, last: bool) -> float:
    """The part's own; the last one has what is left without its grace, once imports and the other parts have `taken` theirs."""
    return max(0.0, _TOTAL - taken - _GRACE) if last else PARTS[name][1]


def _run_part(name: str, extent: Extent, scratch: Path, seconds: float) -> None:
    warnings.simplefilter("ignore")
    for finding in PARTS[name][0](extent, Clock(seconds), scratch):
        print(_MARK + finding.to_json(), flush=True)


def _part_in_process(name: str, seconds: float, *, small: bool) -> list[Finding]:
    """A part in a process of its own: it has the whole device, and its end is no other's."""
    # Images that are drawn need no place in the user's cache.
    environment = {**os.environ, "AUTOSLIM_CACHE_LIMIT": "0"}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="autoslim-device-", ignore_cleanup_errors=True))
        out, errors = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        times = _SMALL_TIMES if small else 1
        command = [sys.executable, __file__, "--part", name, "--scratch", scratch, "--seconds", str(seconds * times)]
        command += ["--small"] if small else []
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment, start_new_session=True)
        limit, why = (seconds + _GRACE) * times, ""
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
