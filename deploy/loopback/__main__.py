"""`python -m loopback up|stop|status`: a whole installation on this machine. `make cluster` and `make cluster-stop` call it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from loopback.installation import Installation


def main() -> int:
    arguments = _arguments()
    installation = Installation(
        arguments.folder.absolute(), port=arguments.port, artifacts=arguments.artifacts, jobs=arguments.jobs, say=_say
    )
    if arguments.command == "stop":
        _say("stopping; the next start resumes the jobs ..." if installation.programs.running() else "nothing runs")
        installation.programs.stop()
        return 0
    if arguments.command == "status":
        print("\n".join(installation.programs.running()) or "nothing runs")
        return 0
    return _up(installation)


def _up(installation: Installation) -> int:
    """Runs in the foreground until Ctrl-C, SIGTERM, or `stop` from another process; then stops everything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        key = installation.start()
        print(_addresses(installation, key), flush=True)
        installation.programs.watch()
    except KeyboardInterrupt:
        _say("stopping; the next start resumes the jobs ...")
    except RuntimeError as error:
        _say(str(error))
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not installation.programs.replaced:
            installation.programs.stop()
    return 0


def _addresses(installation: Installation, key: str | None) -> str:
    secrets = installation.folder / "secrets"
    lines = [
        f"API            {installation.api}",
        f"MLflow         {installation.mlflow} (no login: every user of this machine can read and write it)",
        f"Ray dashboard  {installation.ray.dashboard} (log in with the token in {secrets / 'ray_token'})",
        f"PostgreSQL     127.0.0.1:{installation.postgres.port} (password in {secrets / 'postgres_password'})",
        f"logs           {installation.logs}",
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
