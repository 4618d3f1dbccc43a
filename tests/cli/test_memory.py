"""Memory of a run does not grow with the length of the video."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import cv2
import pytest
from svdp.signals.video import VideoReader

SCRIPT = """
import sys
from svdp.cli.app import run
try:
    run(sys.argv[1:])
except SystemExit as exit_:
    assert not exit_.code, exit_.code
with open("/proc/self/status") as status:  # of this program; ru_maxrss would count that of the tests, inherited
    print("peak", next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024)
"""


def peak_megabytes(*arguments: str | Path) -> float:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_600_frames_need_no_more_than_150(tiny_weights, examples, encode, tmp_path):
    frames = [cv2.resize(frame, (192, 192)) for frame in islice(VideoReader(examples.driving), 40)]
    peaks = {}
    for count in (150, 600):
        clip = encode(tmp_path / f"{count}.mp4", islice(cycle(frames), count))
        files = ("--source", examples.source, "--driving", clip, "-o", tmp_path / f"out{count}.mp4")
        peaks[count] = peak_megabytes("animate", *files, "--weights", tiny_weights, "--steps", "1", "--keep-crop")
        assert VideoReader(tmp_path / f"out{count}.mp4").num_frames == count
    assert peaks[600] <= 1.1 * peaks[150], peaks
    assert peaks[600] - peaks[150] < 60, peaks  # most of it is libraries; this is what the frames add
