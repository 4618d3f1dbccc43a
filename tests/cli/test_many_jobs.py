"""Two hundred short jobs in one process: memory stays as it is after the tenth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COUNT = 200
SCRIPT = """
import json, sys
from pathlib import Path
import svdp
from svdp.animation.batch import Job

source, driving, weights, out, count = sys.argv[1:]

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

settings = {"max_frames": 2, "steps": 1, "contact_sheet": False}
jobs = [Job(Path(source), Path(driving), Path(out, f"{n}.mp4"), {**settings, "seed": n}) for n in range(int(count))]
used = []
model = svdp.load_model(weights, device="cpu")
outcomes = svdp.run_jobs(jobs, model, out, on_outcome=lambda outcome: used.append(resident()))
print(json.dumps({"used": used, "states": [o.state for o in outcomes]}))
"""


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_flat_after_the_tenth_of_200_jobs(tiny_weights: Path, examples, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, examples.source, examples.driving, tiny_weights, tmp_path, COUNT]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["states"] == ["done"] * COUNT
    used = np.array(told["used"])
    print("MB after jobs 1, 10, 50, 100, 200:", *(round(used[n - 1]) for n in (1, 10, 50, 100, 200)))
    # The allocator takes memory in steps of 20 MB; one picture kept a job would be more than 200.
    assert np.median(used[-20:]) - np.median(used[9:29]) < 45, used.round().tolist()
    assert used[10:].max() - used[9] < 60, used.round().tolist()
