import os
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "timm", "ray", "optuna", "mlflow", "sqlalchemy", "fastapi", "numpy", "httpx")


def test_the_command_line_begins_without_the_heavy_packages():
    code = f"import sys, autoslim.cli\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_shell_completes_commands_and_flags():
    assert completed("autoslim can") == ["cancel"]
    assert completed("autoslim submit --samp") == ["--sampler"]


def completed(line: str) -> list[str]:
    """What bash would offer for the last word."""
    asked = {"_AUTOSLIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    program = Path(sys.executable).with_name("autoslim")
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, env={**os.environ, **asked})
    return done.stdout.split()
