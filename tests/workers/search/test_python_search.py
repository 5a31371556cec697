"""`autoslim.run_search` on a model and data that are objects, what it returns, and another point of its front."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = """
import json, sys, timm, torch, autoslim
from sklearn.datasets import load_digits
from workers.search.pick import Wish, pick


class Log(autoslim.SearchCallback):
    def __init__(self):
        self.seen = []

    def on_trial_start(self, result, target):
        self.seen.append(["start", result.number])

    def on_epoch_end(self, result, report):
        self.seen.append(["epoch", result.number])

    def on_trial_end(self, result, target):
        self.seen.append(["end", result.number])


digits = load_digits()
pictures = [(torch.from_numpy(image / 16).float(), int(label)) for image, label in zip(digits.images[:400], digits.target[:400])]
torch.manual_seed(0)
model = timm.create_model("deit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=10)


def search(log, **changes):
    return autoslim.run_search(
        model, pictures, ["60%"], output=sys.argv[1], callbacks=[log], space="smoke", concurrency=1, epochs=1, base_epochs=1,
        batch_size=64, speed="none", scheduler="none", final_share=0.0, address="local", **changes,
    )


first, second = Log(), Log()
result = search(first, trials=3)
resumed = search(second, trials=4, resume=True)
picked = pick(result.folder, Wish(flops="90%"))
with torch.no_grad():
    flops = autoslim.count_flops(result.model("60%"), 16)
print(json.dumps({
    "first": first.seen, "second": second.seen, "flops": flops, "budget": result.models["60%"].budget, "missing": result.missing,
    "front": [t.number for t in resumed.front], "trials": len(resumed.front.trials), "best": resumed.front.best("60%").flops,
    "picked": [picked.trial, resumed.front.best("90%").number, autoslim.count_flops(autoslim.load(picked.folder), 16), picked.flops],
    "report": result.report().is_file(), "html": result._repr_html_(), "rows": len(resumed.front.to_pandas(all_trials=True)),
}))
"""


def test_a_search_in_a_script(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "run")], capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [event for event in found["first"] if event[0] == "start"] == [["start", number] for number in range(3)]
    assert [event for event in found["first"] if event[0] == "end"] == [["end", number] for number in range(3)]
    assert ["epoch", 0] in found["first"]
    assert {number for _, number in found["second"]} == {3}
    assert found["flops"] <= found["budget"]
    assert found["best"] <= found["budget"]
    assert (found["missing"], found["trials"], found["rows"], found["report"]) == ([], 4, 4, True)
    assert found["front"]
    trial, best, counted, flops = found["picked"]
    assert (trial, counted) == (best, flops)
    assert "60%" in found["html"]
