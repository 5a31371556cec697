import subprocess
import sys

HEAVY = ("torch", "timm", "ray", "optuna", "mlflow", "sqlalchemy", "fastapi", "numpy", "httpx")


def test_the_command_line_begins_without_the_heavy_packages():
    code = f"import sys, autoslim.cli\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
