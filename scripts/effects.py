"""Does every slider do what it says, and nothing else? Each control against each measure, found anew in pictures.

    python scripts/effects.py                                             # the bundled portraits and clips
    python scripts/effects.py --portraits A.jpg B.jpg ... --clips C.mp4 ...

The clips say how far each control and each measure goes in life: their natural spans (5th to 95th percentile, counted
from each clip's median). Of every portrait two pictures are drawn that differ by one such span of one control; the face
is found in both. A cell is the change of a measure in its natural spans: 1 on the diagonal is exactly what was asked.
Printed are medians over the portraits with 95 % intervals (sign test), for which six portraits are the fewest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from svdp.evaluation.redetection import MEASURES
from svdp.evaluation.score import Score, median_score
from svdp.heads.controls import CONTROLS, NUMBER, Edit, pairs_of
from svdp.heads.face_motion import FaceMotion, edit, fit_motion, joined, still
from svdp.heads.pose import PosedPortrait, open_rig
from svdp.signals.crops import CropConfig, crop_track, face_frame, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import BLENDSHAPES, FaceFinder, FaceTrack, detect_face, link_faces, track_faces
from svdp.signals.video import VideoReader

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
SCALE = 1.7
LEAST = 0.15  # of a whole expression: what is asked of controls that the clips hardly use
FROM = {"mouth": 0.0, "smile": 0.0, "pucker": 0.0, "lids": -1.0}  # where the span begins; by default half below 0
COUPLED = {  # pairs that belong together in a face, and why
    ("pitch", "up"): "the face nods about the neck",
    ("yaw", "right"): "the face turns about the neck",
    ("roll", "right"): "the face tilts about the neck",
    ("zoom", "up"): "the head grows about the neck",
    ("gaze_up", "lids"): "the lids follow the eyes",
    ("lids", "gaze_up"): "the detector reads gaze off the lids",
}


def _mean(*names: str) -> Callable[[FaceTrack], np.ndarray]:
    columns = [BLENDSHAPES.index(name) for name in names]
    return lambda track: track.blendshapes[:, columns].mean(1)


def _both(stem: str) -> Callable[[FaceTrack], np.ndarray]:
    return _mean(f"{stem}Left", f"{stem}Right")


def _chin_sideways(track: FaceTrack) -> np.ndarray:
    """(T,) chin and lower lip towards the picture's right of the nose's bridge, in the head's frame, eye distances."""
    turns = track.matrices[:, :3, :3] / np.linalg.norm(track.matrices[:, :3, :3], axis=1, keepdims=True)
    apart = (track.landmarks[:, [152, 148, 377, 17]].mean(1) - track.landmarks[:, 168]) * [1, -1, -1]
    return np.einsum("tij,ti->tj", turns, apart)[:, 0] / track.eye_distance


_KNOWN = {measure.name: measure.read for measure in MEASURES}
READ: dict[str, Callable[[FaceTrack], np.ndarray]] = {
    **{name: _KNOWN[name] for name in ("yaw", "pitch", "roll", "gaze_sideways", "gaze_up")},
    "right": lambda track: face_frame(track.landmarks)[0][:, 0] / track.image_size[1],
    "up": lambda track: -face_frame(track.landmarks)[0][:, 1] / track.image_size[0],
    "zoom": lambda track: np.log(face_frame(track.landmarks)[1]),
    "lids": lambda track: -_KNOWN["blink"](track),
    "brows": lambda track: _mean("browInnerUp")(track) + _both("browOuterUp")(track) - _both("browDown")(track),
    "mouth": _KNOWN["mouth_open"],
    "smile": lambda track: _both("mouthSmile")(track) - _both("mouthFrown")(track),
    "pucker": lambda track: _mean("mouthPucker")(track) - _both("mouthStretch")(track),
    "jaw": _chin_sideways,
}
NAMES = tuple(control.name for control in CONTROLS if control.name in READ)
ALIKE = ("yaw", "pitch", "roll", "right", "up", "zoom")  # control and measure are of one unit


@dataclass(frozen=True)
class Spans:
    """Natural spans by control: of the control's own value, and of its measure."""

    asked: dict[str, float]
    read: dict[str, float]


def main() -> None:
    """Measure the spans, then the effects; print a table and what misses the mark."""
    options = parse()
    spans = natural_spans(options.clips, options.frames)
    cells = [effects(path, spans, options.size) for path in options.portraits]
    table = {name: {m: median_score([_score(c[name][m]) for c in cells]) for m in NAMES} for name in NAMES}
    typer.echo(f"{len(options.portraits)} portraits, {len(options.clips)} clips, {options.size} px")
    typer.echo(f"| control | span | asked | {' | '.join(NAMES)} |\n|---|{'---:|' * (len(NAMES) + 2)}")
    for name, row in table.items():
        shown = [f"**{s.value:.2f}**" if m == name else f"{s.value:.2f}" for m, s in row.items()]
        typer.echo(f"| {name} | {spans.asked[name]:.3g} | {ask(name, spans):.3g} | {' | '.join(shown)} |")
    for name in NAMES:
        for measure, score in table[name].items():
            missed = score.value < 0.5 if measure == name else abs(score.value) > 0.25
            if missed or measure == name:
                why = COUPLED.get((name, measure), "")
                told = f"{name} in {measure}: {score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"
                typer.echo(told + (f" MISSED {why and '(coupled: ' + why + ')'}" if missed else ""))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--portraits", type=Path, nargs="+", default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--clips", type=Path, nargs="+", default=sorted(EXAMPLES.glob("*.mp4")))
    parser.add_argument("--frames", type=int, default=150, help="of a clip, at most")
    parser.add_argument("--size", type=int, default=256, help="pixels of the pictures")
    return parser.parse_args()


def natural_spans(clips: list[Path], frames: int) -> Spans:
    """How far controls and measures go in clips."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    reads: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    rule = CropConfig(size=256, scale=SCALE)
    for path in clips:
        reader = VideoReader(path, max_frames=frames)
        track = track_faces(reader, float(reader.info.fps), smoothing=None)
        track = crop_track(track, plan_crop(track, rule))
        _, basis = open_rig(rule.size, SCALE)
        motion = fit_motion(basis, track.landmarks, track.blendshapes, rule.size)
        for name in NAMES:
            read = READ[name](track)
            value = read if name in ALIKE else control_value(motion, name)
            reads[name].append((read - np.median(read))[track.present])
            values[name].append((value - np.median(value))[track.present])
    return Spans(*({name: _span(np.concatenate(rows[name])) for name in NAMES} for rows in (values, reads)))


def control_value(motion: FaceMotion, name: str) -> np.ndarray:
    """(T,) a control's value in a motion, in the unit of its offsets."""
    if name == "lids":
        return motion.lids.mean(1)
    zero = np.zeros(len(motion), np.float32)
    pairs = list(pairs_of(CONTROLS[NUMBER[name]], motion.names))
    each = [
        (zero if more is None else motion.expression[:, more]) - (zero if less is None else motion.expression[:, less])
        for more, less, _ in pairs
    ]
    return np.mean(each, axis=0)


def ask(name: str, spans: Spans) -> float:
    """By how much two pictures differ, in the unit of the control's offsets."""
    return min(max(spans.asked[name], 0.0 if name in ALIKE else LEAST), CONTROLS[NUMBER[name]].limit)


def effects(path: Path, spans: Spans, size: int) -> dict[str, dict[str, float]]:
    """Control -> measure -> change in natural spans for one natural span asked, of one portrait; nan without a face."""
    picture = load_image(path)
    head = PosedPortrait(picture, detect_face(picture), size, SCALE)
    both = []
    for name in NAMES:
        wide, start = ask(name, spans), FROM.get(name, -0.5)
        both += [Edit(name, offset=wide * start), Edit(name, offset=wide * (start + 1))]
    moves = joined([edit(still(head.basis.names), [change]) for change in both])
    with FaceFinder("image") as detector:
        found = [detector.detect(frame.picture) for frame in head.perform(moves)]
    table = {}
    for n, name in enumerate(NAMES):
        pair = found[2 * n : 2 * n + 2]
        if all(pair):
            track = link_faces(pair, (size, size), 25.0, smoothing=None)
            change = {m: float(np.diff(READ[m](track))[0]) / spans.read[m] for m in NAMES}
        else:
            change = dict.fromkeys(NAMES, float("nan"))
        table[name] = {m: value * spans.asked[name] / ask(name, spans) for m, value in change.items()}
    return table


def _span(values: np.ndarray) -> float:
    return float(np.subtract(*np.percentile(values, [95, 5])))


def _score(value: float) -> Score:
    """A face that is not found again has no effect on its own measure: it counts as 0."""
    return Score.of(value) if np.isfinite(value) else Score.missing("no face", 0.0)


if __name__ == "__main__":
    main()
