"""A service on a free port of loopback, in a thread, with its queue and keys at hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import shared_planner

from autoslim.config import read_mapping
from autoslim.service.app import create_app
from autoslim.service.dry_run import planner
from autoslim.service.serve import _listen, _Server
from autoslim.service.settings import RequestLimits, ServiceSettings
from autoslim.store import Keys, Queue, QueuedJob, Store

_numbers = itertools.count()

SPEC: dict[str, Any] = {
    "model": "deit_tiny_patch16_224",
    "weights": "scratch",
    "model_args": {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "image_size": 16,
    "data": "digits",
    "flops": ["50%"],
}


@dataclasses.dataclass(frozen=True)
class RunningService:
    url: str
    settings: ServiceSettings
    queue: Queue
    keys: Keys
    store: Store
    server: _Server

    def key(self, *scopes: str, tenant: str | None = None) -> str:
        tenant = tenant or f"tenant-{next(_numbers)}"
        return self.keys.create(tenant=tenant, scopes=scopes or ("read", "submit"), name="test")[1]

    def client(self, *scopes: str, tenant: str | None = None) -> httpx.Client:
        """With a key of a tenant of its own."""
        return self.anybody(headers={"Authorization": f"Bearer {self.key(*scopes, tenant=tenant)}"})

    def anybody(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=280, trust_env=False, **options)

    def put(self, tenant: str, **fields: Any) -> QueuedJob:
        """A job that nobody has to plan first."""
        spec = read_mapping(SPEC | fields)
        return self.queue.submit(spec.model_dump_json(), tenant=tenant, name=spec.name, priority=spec.priority)[0]


@contextlib.contextmanager
def running(settings: ServiceSettings, *, shares_planner: bool = True) -> Iterator[RunningService]:
    """Its planner is a fork of `shared_planner`, unless the start of a planner matters."""
    started = threading.Event()
    with _listen("127.0.0.1", 0) as listener:
        with pytest.MonkeyPatch.context() as patch:
            if shares_planner:
                patch.setattr(planner, "PROGRAM", shared_planner.program())
            server = _Server(create_app(settings, warm=False), started.set, settings.limits)
            thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
            thread.start()
            assert started.wait(60)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with Queue(settings.storage) as queue, Keys(settings.storage) as keys, Store(settings.storage) as store:
                yield RunningService(url, settings, queue, keys, store, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def patient(**limits: Any) -> RequestLimits:
    """Requests wait for their plan, and for the planner, however busy the machine is."""
    return RequestLimits(**{"submit_seconds": 250.0, "planner_start_seconds": 250.0, **limits})


def settings_in(folder: Path, **changes: Any) -> ServiceSettings:
    changes = {"limits": patient(), **changes}
    return ServiceSettings(storage=f"sqlite:///{folder / 'service.db'}", root=folder / "root", **changes)
