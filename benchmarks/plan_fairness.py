"""The time of a tenant's plan while another tenant asks for the dearest plans that it can get, as often as it may.

    python benchmarks/plan_fairness.py [--plans 100] [--attackers 16]

One API process on loopback, started by its command, with its default limits. First one tenant asks for plans alone, one after the other,
each for another budget, so that none is in the cache. Then it does so again while a second tenant keeps many requests open: plans of a
deep model, plans like those of the first tenant, and submits of both. Both parts are of one run, and the result is their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from service_load import command, percentile

PLAN: dict[str, Any] = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits"}
DEAR: dict[str, Any] = PLAN | {"model_args": {"embed_dim": 384, "depth": 64, "num_heads": 6, "patch_size": 8}, "image_size": 512}


async def plan(client: httpx.AsyncClient, number: int) -> float:
    """Seconds of one plan of its own."""
    began = time.perf_counter()
    answer = await client.post("/v1/plans", json=PLAN | {"flops": [f"{40 + number / 100:.2f}%"]})
    answer.raise_for_status()
    return time.perf_counter() - began


async def attack(client: httpx.AsyncClient, numbers: itertools.count[int], answers: Counter[str]) -> None:
    """Asks again as soon as there is an answer, whatever it is; only a refusal for too many requests a second is kept to."""
    while True:
        number = next(numbers)
        spec = (DEAR if number % 2 else PLAN) | {"flops": [f"{30 + number % 6000 / 100:.2f}%"], "params": f"{number + 10**6}"}
        path = "/v1/jobs" if number % 5 == 0 else "/v1/plans"
        answer = await client.post(path, json=spec)
        answers[f"{path} {answer.status_code}"] += 1
        if answer.status_code == 429:
            # A client that kept to Retry-After would be no attack; one that asks a thousand times a second meets the rate limit.
            await asyncio.sleep(0.2)


async def run(url: str, keys: tuple[str, str], plans: int, attackers: int) -> None:
    mine, theirs = (
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=600, trust_env=False) for key in keys
    )
    async with mine, theirs:
        while (await mine.post("/v1/plans", json=PLAN | {"flops": ["39%"]})).status_code == 503:
            await asyncio.sleep(1)
        alone = [await plan(mine, number) for number in range(plans)]
        numbers, answers = itertools.count(1), Counter[str]()
        attacks = [asyncio.create_task(attack(theirs, numbers, answers)) for _ in range(attackers)]
        await asyncio.sleep(5)
        beside = [await plan(mine, number) for number in range(plans, 2 * plans)]
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
    print("| plans | p50, ms | p90, ms | p99, ms | longest, ms |\n|---|---|---|---|---|")
    for name, seconds in (("alone", alone), ("beside the attack", beside)):
        print(f"| {name} | " + " | ".join(f"{1000 * percentile(seconds, share):.0f}" for share in (0.5, 0.9, 0.99, 1.0)) + " |")
    for share, name in ((0.5, "the median"), (0.99, "the p99")):
        print(f"\np99 beside the attack by {name} alone: {percentile(beside, 0.99) / percentile(alone, share):.2f}")
    print(f"\nthe attacker's answers: {dict(answers)}")


def new_key(root: Path, tenant: str) -> str:
    arguments = [
        sys.executable,
        "-m",
        "autoslim.cli",
        "keys",
        "create",
        "--tenant",
        tenant,
        "--scope",
        "read",
        "--scope",
        "submit",
    ]
    storage = ("--storage", f"sqlite:///{root}/autoslim.db")
    return subprocess.run([*arguments, *storage], capture_output=True, text=True, check=True).stdout.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--attackers", type=int, default=16, help="requests that the attacker keeps open")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autoslim-plans-") as folder:
        root = Path(folder)
        keys = new_key(root, "mine"), new_key(root, "theirs")
        with command("serve", "--root", folder, "--port", "0", "--no-supervisor", root=root, stdout=subprocess.PIPE) as service:
            assert service.stdout is not None
            url = service.stdout.readline().strip()
            if not url:
                raise SystemExit((root / "serve.log").read_text())
            asyncio.run(run(url, keys, arguments.plans, arguments.attackers))


if __name__ == "__main__":
    main()
