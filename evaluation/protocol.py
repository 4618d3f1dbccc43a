"""What is measured of one animated pair: files in, one row of the report out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..signals.video import VideoReader
from .redetection import MEASURES, Redetection, redetect
from .report import Column, Run
from .score import Score
from .sound import SoundCheck, check_sound

COLUMNS = (
    Column(key="faces", title="faces found", percent=True, digits=0),
    *(Column(key=measure.name, title=measure.name.replace("_", " ")) for measure in MEASURES),
)


def evaluate_pair(
    name: str, result: Path, driving: Path, *, start: int = 0, max_frames: int | None = None, select: str = "largest"
) -> Run:
    """Compare a finished video with the part of the driving clip that it was made from.

    Scores: `faces`, the share of result frames in which a face is detected, and Pearson's r for every measure of
    `redetection`. Checks: `frames` (as many as the driver's) and `sound` (kept, see `sound`).
    Raises MediaError (a file cannot be read) or NoFaceError (no face in the driver).
    """
    driver = VideoReader(driving, start=start, max_frames=max_frames)
    found = redetect(VideoReader(result), driver, float(driver.info.fps), select=select)
    timing = driver.timing
    sound = check_sound(result, driving, timing.begin, timing.time(timing.num_frames))
    return Run(
        name=name,
        scores={"faces": Score.of(found.faces), **found.correlations},
        checks={"frames": found.frames_equal, "sound": sound.kept},
        details=_details(found, sound),
    )


def _details(found: Redetection, sound: SoundCheck) -> dict[str, object]:
    return {
        "driver_frames": found.driver_frames,
        "result_frames": found.result_frames,
        "driver_faces": found.driver_faces,
        "driver_spans": {f"{m.name} ({m.unit})": found.driver_spans[m.name] for m in MEASURES},
        "sound": {**asdict(sound), "kept": sound.kept},
    }
