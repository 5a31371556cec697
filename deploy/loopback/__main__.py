"""`python -m loopback up|stop|status`: a whole installation on this machine. `make cluster` and `make cluster-stop` call it."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from loopback.installation import NEEDS, Installation
from workers.service.revivals import Revivals

# Each check asks every process and PostgreSQL.
_POLL_SECONDS = 5.0


def main() -> int:
    arguments = _arguments()
    installation = Installation(
        arguments.folder.absolute(), port=arguments.port, artifacts=arguments.artifacts, jobs=arguments.jobs, say=_say
    )
    if arguments.command == "stop":
        _say("stopping; the next start resumes the jobs ..." if installation.running() else "nothing runs")
        installation.stop()
        return 0
    if arguments.command == "status":
        print("\n".join(installation.running()) or "nothing runs")
        return 0
    return _up(installation)


def _up(installation: Installation) -> int:
    """Runs in the foreground until Ctrl-C, SIGTERM, or `stop` from another process; then stops everything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        key = installation.start()
        print(_addresses(installation, key), flush=True)
        _watch(installation)
    except KeyboardInterrupt:
        _say("stopping; the next start resumes the jobs ...")
    except RuntimeError as error:
        _say(str(error))
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not installation.replaced:
            installation.stop()
    return 0


def _watch(installation: Installation) -> None:
    """Starts programs again that have exited; returns when the installation is stopped from elsewhere."""
    revivals = Revivals(NEEDS)
    while installation.wanted:
        name = revivals.due(installation.running(), time.monotonic())
        if name is None:
            time.sleep(_POLL_SECONDS)
        elif installation.wanted:
            # Asked once more, because a `stop` from elsewhere says so before it ends the first program.
            _revive(installation, name)


def _revive(installation: Installation, name: str) -> None:
    _say(f"{name} has exited and is started again; its log is in {installation.folder / 'programs'}")
    try:
        installation.revive(name)
    except RuntimeError as error:
        _say(f"{name} could not be started again: {error}")


def _addresses(installation: Installation, key: str | None) -> str:
    secrets = installation.folder / "secrets"
    lines = [
        f"API            {installation.api}",
        f"MLflow         {installation.mlflow} (no login: every user of this machine can read and write it)",
        f"Ray dashboard  {installation.ray.dashboard} (log in with the token in {secrets / 'ray_token'})",
        f"PostgreSQL     127.0.0.1:{installation.postgres.port} (password in {secrets / 'postgres_password'})",
        f"logs           {installation.folder / 'programs'}",
        "",
        f"export AUTOSLIM_URL={installation.api}",
    ]
    if key is None:
        lines.append("the first start created an API key; to create another one:")
        lines.append(f"{installation.for_operators()} autoslim keys create --tenant local --scope read --scope submit --name me")
    else:
        lines.append(f"export AUTOSLIM_KEY={key}    # shown this once")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loopback", description=__doc__)
    parser.add_argument("command", choices=("up", "stop", "status"))
    parser.add_argument("--folder", type=Path, default=Path("runs/cluster"), help="folder of the installation")
    parser.add_argument("--port", type=int, default=8400, help="port of the API; the next fourteen ports are used as well")
    parser.add_argument("--artifacts", help="MLflow's artifact store: a folder or s3://bucket/path; default in --folder")
    parser.add_argument("--jobs", type=int, default=1, help="number of jobs that run at the same time")
    return parser.parse_args()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
