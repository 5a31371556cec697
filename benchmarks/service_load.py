"""Latency of the service under load: reads at a steady rate with many queued jobs, many event streams, and running trials.

    python benchmarks/service_load.py [--jobs 1000] [--streams 200] [--rate 50] [--seconds 60] [--storage URL]

One API process on loopback, started by its command. The jobs are submitted over HTTP. The first measurement has no supervisor; then one
starts a real search (scikit-learn's digits, a small ViT) with a trial for every CPU, and the measurement is repeated. A read's time counts
from the moment it was due, so that a slow answer is not hidden by the reads that waited for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

SPEC: dict[str, Any] = {
    "model": "deit_tiny_patch16_224",
    "weights": "scratch",
    "model_args": {"patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4},
    "image_size": 24,
    "data": "digits",
    "flops": ["70%", "50%", "40%"],
    "trials": 1000,
    "epochs": 5,
    "base_epochs": 5,
    "batch_size": 32,
    "speed": "none",
}
MIX = {
    "GET job": 45,
    "GET jobs, a page of 50": 15,
    "GET events, a page": 15,
    "GET trials of the running job": 10,
    "GET front of the running job": 5,
    "GET artifacts": 5,
    "GET metrics": 5,
}
"""Shares of the reads."""


@dataclasses.dataclass
class Measured:
    """Seconds of each read by kind; `lags` are seconds from an event's own time to its arrival; `memory` the API's bytes, once a second.

    `busy` is the share of one CPU that the API used, `waited` the share of the time in which its event loop was ready to run and had no
    CPU, `others` the share of one CPU that processes outside this benchmark used.
    """

    reads: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    lags: list[float] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    busy: float = 0.0
    waited: float = 0.0
    others: float = 0.0


@contextlib.contextmanager
def command(*words: str, root: Path, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A command of autoslim; at the end it is stopped with every process that it has started."""
    arguments = [sys.executable, "-m", "autoslim.cli", *words]
    with (root / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(arguments, stderr=log, text=True, start_new_session=True, **streams)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def memory_of(pid: int) -> int:
    """Resident bytes of the process, without its children."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU seconds of the process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def others_seconds() -> float:
    """CPU seconds of all processes but this one and its descendants."""
    user, nice, system, _, _, irq, softirq = (int(field) for field in Path("/proc/stat").read_text().split()[1:8])
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # Including those of its children that have ended.
        parents[int(entry.parent.name)], spent[int(entry.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    ours = sum(ticks for pid, ticks in spent.items() if os.getpid() in _ancestors(pid, parents))
    return (user + nice + system + irq + softirq - ours) / os.sysconf("SC_CLK_TCK")


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """The process, its parent, and so on up to the first process."""
    while pid in parents:
        yield pid
        pid = parents[pid]


def waiting_seconds(pid: int) -> float:
    """Seconds for which the process' first thread, which runs the event loop, waited for a CPU."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


async def submit_all(client: httpx.AsyncClient, count: int) -> list[str]:
    """The jobs' ids; the first one has the highest priority and starts first."""

    async def submit(number: int) -> str:
        spec = SPEC | {"priority": 9 if number == 0 else 5}
        while True:
            answer = await client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": str(number)})
            if answer.status_code != 429:
                return str(answer.raise_for_status().json()["id"])
            await asyncio.sleep(float(answer.headers["retry-after"]))

    ids = [await submit(0)]
    for start in range(1, count, 20):
        ids += await asyncio.gather(*(submit(number) for number in range(start, min(start + 20, count))))
    return ids


async def follow(client: httpx.AsyncClient, job_id: str, measured: list[Measured]) -> None:
    """Follows a job's events until it is cancelled; their lags count for the last of `measured`."""
    began = datetime.datetime.now(datetime.UTC)
    async with client.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}, timeout=None) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                at = datetime.datetime.fromisoformat(json.loads(line[6:])["at"])
                if at > began:
                    measured[-1].lags.append((datetime.datetime.now(datetime.UTC) - at).total_seconds())


async def read(client: httpx.AsyncClient, kind: str, ids: list[str], due: float, measured: Measured) -> None:
    here = f"/v1/jobs/{ids[0]}"
    path = {
        "GET job": f"/v1/jobs/{random.choice(ids)}",
        "GET jobs, a page of 50": "/v1/jobs?page_size=50",
        "GET events, a page": f"{here}/events",
        "GET trials of the running job": f"{here}/trials",
        "GET front of the running job": f"{here}/front",
        "GET artifacts": f"{here}/artifacts",
        "GET metrics": "/metrics",
    }[kind]
    try:
        answer = await client.get(path)
    except httpx.HTTPError as error:
        measured.failures[type(error).__name__] += 1
        return
    measured.reads.setdefault(kind, []).append(time.perf_counter() - due)
    if answer.status_code != 200:
        measured.failures[str(answer.status_code)] += 1


async def measure(client: httpx.AsyncClient, ids: list[str], measured: Measured, pid: int, arguments: argparse.Namespace) -> None:
    kinds = random.Random(0).choices(list(MIX), weights=list(MIX.values()), k=int(arguments.rate * arguments.seconds))
    began, tasks = time.perf_counter(), []
    worked, waited, others = cpu_seconds(pid), waiting_seconds(pid), others_seconds()
    for number, kind in enumerate(kinds):
        due = began + number / arguments.rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(read(client, kind, ids, due, measured)))
        if number % int(arguments.rate) == 0:
            measured.memory.append(memory_of(pid))
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    measured.busy, measured.waited = (cpu_seconds(pid) - worked) / seconds, (waiting_seconds(pid) - waited) / seconds
    measured.others = (others_seconds() - others) / seconds


async def until_searching(client: httpx.AsyncClient, job_id: str) -> None:
    deadline = time.monotonic() + 600
    while True:
        job = (await client.get(f"/v1/jobs/{job_id}")).json()
        if job["progress"]["trials_ended"] >= 3:
            return
        if job["failure"] is not None or time.monotonic() > deadline:
            raise SystemExit(f"the search did not begin: {job['state']} {job['failure']}")
        await asyncio.sleep(2)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rows(name: str, measured: Measured) -> Iterator[str]:
    everything = [seconds for values in measured.reads.values() for seconds in values]
    for kind, values in {"all reads": everything, **{kind: measured.reads.get(kind, []) for kind in MIX}}.items():
        if values:
            shown = " | ".join(f"{1000 * percentile(values, share):.0f}" for share in (0.5, 0.9, 0.99, 1.0))
            yield f"| {name} | {kind} | {len(values)} | {shown} |"


async def run(arguments: argparse.Namespace, root: Path, url: str, service: subprocess.Popen[str]) -> None:
    limits = httpx.Limits(max_connections=arguments.streams + 200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
        began = time.perf_counter()
        ids = await submit_all(client, arguments.jobs)
        print(f"{len(ids)} jobs submitted in {time.perf_counter() - began:.0f} s; the API has {memory_of(service.pid) >> 20} MiB")
        measured = [Measured()]
        # Half of the streams follow the job that will run, the others the waiting ones.
        followed = [ids[0] if number % 2 == 0 else ids[number % len(ids)] for number in range(arguments.streams)]
        streams = []
        for job_id in followed:
            # Within the service's rate limit, like the reads.
            streams.append(asyncio.create_task(follow(client, job_id, measured)))
            await asyncio.sleep(1 / arguments.rate)
        await measure(client, ids, measured[-1], service.pid, arguments)
        storage = arguments.storage or f"sqlite:///{root}/autoslim.db"
        with command("supervise", "--root", str(root), "--storage", storage, root=root, stdout=subprocess.DEVNULL):
            await until_searching(client, ids[0])
            measured.append(Measured())
            await measure(client, ids, measured[-1], service.pid, arguments)
            trials = (await client.get(f"/v1/jobs/{ids[0]}")).json()["progress"]["trials_ended"]
        ended = Counter(repr(stream.exception()) for stream in streams if stream.done())
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    report(measured, ended, trials)


def report(measured: list[Measured], ended: Counter[str], trials: int) -> None:
    print("\n| beside | read | number | p50, ms | p90, ms | p99, ms | longest, ms |\n|---|---|---|---|---|---|---|")
    for name, part in zip(("nothing", "trials"), measured, strict=True):
        print("\n".join(rows(name, part)))
    for name, part in zip(("nothing", "trials"), measured, strict=True):
        print(
            f"\nbeside {name} the API used {part.busy:.0%} of a CPU and waited for one {part.waited:.0%} of the time; "
            f"other processes used {part.others:.0%} of one"
        )
    lags = measured[1].lags
    if lags:
        print(
            f"\n{len(lags)} events arrived beside trials: p50 {percentile(lags, 0.5):.2f} s, p99 {percentile(lags, 0.99):.2f} s"
        )
    memory = [value >> 20 for part in measured for value in part.memory]
    print(f"the API's memory: {memory[0]} MiB at first, {max(memory)} at most, {memory[-1]} at the end")
    failures = sum((part.failures for part in measured), Counter[str]())
    print(f"{trials} trials had ended; failed reads: {dict(failures) or 'none'}; streams that broke off: {dict(ended) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50.0, help="reads a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--storage", help="the database; default SQLite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autoslim-load-") as folder:
        root = Path(folder)
        storage = ("--storage", arguments.storage) if arguments.storage else ()
        options = ("--root", folder, "--port", "0", "--no-supervisor", *storage)
        with command("serve", *options, root=root, stdout=subprocess.PIPE) as service:
            assert service.stdout is not None
            url = service.stdout.readline().strip()
            if not url:
                raise SystemExit((root / "serve.log").read_text())
            asyncio.run(run(arguments, root, url, service))


if __name__ == "__main__":
    main()
