"""The model card's sections on measured speed: latency and throughput beside the dense model's, and the limit on the latency."""

from __future__ import annotations

from autoslim.core.figures import format_figure
from autoslim.core.speed import SpeedReport
from autoslim.export.artifact import SlimConfig


def speed_section(config: SlimConfig) -> str:
    """Latency and throughput beside the dense model's; a model that is not faster at batch 1 is marked as such. Empty where unmeasured."""
    speed = config.speed
    if speed is None:
        return ""
    rows = "\n".join(
        f"| {timing.mode}, {timing.device} | {timing.batch} | {format_figure(timing.dense_ms)} | {format_figure(timing.slimmed_ms)} | "
        f"{1000 * timing.batch / timing.slimmed_ms:,.0f} | {timing.describe_speedup()} |"
        for timing in speed.timings
    )
    slow = [
        f"{timing.mode} on the {timing.device.upper()} ({timing.speedup:.2f} times as fast)"
        for timing in speed.timings
        if timing.batch == 1 and timing.speedup <= 1
    ]
    plainly = f"**At batch 1 it is not faster than the dense model**: {', '.join(slow)}.\n" if slow else ""
    left_out = "".join(f"Not measured: {mode}, because {reason}.\n" for mode, reason in speed.left_out.items())
    return f"""## Speed

| | batch | dense, ms | slimmed, ms | images a second | times as fast (quartiles) |
|---|---|---|---|---|---|
{rows}

{plainly}{left_out}Milliseconds are medians of both models run in turns, on {speed.hardware}, {speed.threads} threads.
{speed.explain_speedups()} By FLOPs alone it would be
{config.flops.dense / config.flops.fvcore:.2f} times as fast. On the CPU everything is in float32.{_on_gpu(speed)}{_capped(config)}

"""


def latency_section(config: SlimConfig) -> str:
    """What a limit on the latency was held against. Empty where there is no limit."""
    latency = config.latency
    if latency is None:
        return ""
    timed = latency.timed
    clock = "its own time" if timed.device == "cpu" and timed.threads == 1 else "by the clock"
    where = f"CPU, {timed.threads} thread{'' if timed.threads == 1 else 's'} ({clock})" if timed.device == "cpu" else "GPU"
    return f"""## Latency

| batch of {timed.batch}, {timed.mode}, {where} | ms |
|---|---|
| allowed | {config.limits.latency_ms:g} |
| predicted from the plan | {latency.predicted_ms:.4g} |
| measured, lower quartile | {timed.ms:.4g} |
| measured, median | {timed.median_ms:.4g} |
| dense model, lower quartile | {timed.dense_ms:.4g} |
| dense model, when the table was measured | {latency.dense_ms:.4g} |

{timed.rounds} rounds of both models in turns on {timed.hardware}. The limit is for the lower quartile, which other work on the machine
does not lengthen{_largest(config)}. The prediction adds up a table of the blocks' parts, times {latency.correction:.3f}: whole models,
measured beforehand, took so much longer than their parts.

"""


def _largest(config: SlimConfig) -> str:
    return ", and for an image that reaches all caps" if config.flops.varies else ""


def _on_gpu(speed: SpeedReport) -> str:
    if all(timing.device == "cpu" for timing in speed.timings):
        return ""
    return (
        " On the GPU PyTorch runs in bfloat16 on images that are there, compiled as CUDA graphs, and ONNX Runtime in float32 with the "
        "images' way there."
    )


def _capped(config: SlimConfig) -> str:
    if not config.flops.varies:
        return ""
    return " Eager, an image computes as many tokens as it needs; compiled and as ONNX, as many as the caps allow."
