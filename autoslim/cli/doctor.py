"""`autoslim doctor`: checks that this machine has what a search needs."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from autoslim.cli.table import columns, styled
from autoslim.core.extras import needs_extra
from autoslim.errors import AutoslimError


def examine(output: Path, address: str | None, *, as_json: bool = False) -> bool:
    """Prints one line per check, or all results as JSON. Returns whether all checks passed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("torch", _torch),
        ("packages", _packages),
        ("output", lambda: _output(output)),
        ("store", _store),
        ("ray", lambda: _ray(address)),
        ("flops", _flops),
    ]
    healthy, results = True, {}
    for name, check in checks:
        try:
            with needs_extra("search", "a search"):
                verdict, passed = check(), True
        except (AutoslimError, OSError, ImportError, RuntimeError) as error:
            verdict, passed, healthy = str(error), False, False
        results[name] = {"ok": passed, "found": verdict}
        if not as_json:
            mark = styled("ok  ", "green") if passed else styled("FAIL", "red")
            sys.stdout.write("\n".join(columns([(mark, f"{name:9}", verdict)], gap=1)) + "\n")
            sys.stdout.flush()
    if as_json:
        sys.stdout.write(json.dumps({"ok": healthy, "checks": results}) + "\n")
    return healthy


def _python() -> str:
    return platform.python_version()


def _torch() -> str:
    import torch
    import torchvision  # noqa: F401 - timm needs it, and a mismatched build fails only here

    from autoslim.training.device import choose_precision, pick_device

    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{torch.__version__} on {device.type} ({name}), {choose_precision('auto', device)}"


def _packages() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in ("autoslim", "timm", "ray", "optuna", "mlflow", "pyarrow"))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(output: Path) -> str:
    from autoslim.core.run_folder import RunFolder

    with tempfile.TemporaryDirectory(dir=_existing(output)) as probe:
        RunFolder(Path(probe)).claim(need=0, resume=False)
    return f"{output} can be written, {shutil.disk_usage(_existing(output)).free / 1e9:.1f} GB free"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _store() -> str:
    from autoslim.core.urls import default_url
    from autoslim.store import Store

    with tempfile.TemporaryDirectory() as folder, Store(default_url(folder)) as store:
        store.jobs()
    return "SQLite works"


def _ray(address: str | None) -> str:
    from workers.search.cluster import connect

    with connect(address, name="autoslim doctor") as cluster:
        what = f"cluster at {cluster.address}" if address else "a local cluster starts"
        return f"{what}: {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs; {cluster.exposure}"


def _flops() -> str:
    from autoslim.core.job import ModelSpec
    from autoslim.cost import count_flops
    from autoslim.models import create_dense

    expected = 1_258_411_200
    counted = count_flops(create_dense(ModelSpec(name="deit_tiny_patch16_224", weights="scratch")).module, 224)
    if counted != expected:
        raise RuntimeError(
            f"DeiT-Ti counts {counted:,} multiply-accumulates, {expected:,} are right: the counter cannot be trusted here"
        )
    return f"DeiT-Ti counts {counted:,} multiply-accumulates, as it should"
