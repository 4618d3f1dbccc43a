"""Animating more frames takes no more memory: `scripts/memory.py`, on short clips (tests/cli has 600 against 150)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peak_memory_does_not_grow_with_length(root: Path, assets_dir: Path):
    if not list(assets_dir.rglob("*adapter.safetensors")):
        pytest.skip("the bundled model is not in assets/ yet")
    command = [sys.executable, str(root / "scripts" / "memory.py"), "--frames", "32", "96", "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root.parent, env=os.environ)
    assert done.returncode == 0, done.stderr
    *lengths, _, ratio = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lengths] == ["32 frames written", "96 frames written"]
    assert float(ratio.removeprefix("ratio of peaks: ")) <= 1.1, done.stdout
