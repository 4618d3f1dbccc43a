"""Make the gallery of the documentation: a moving row, ten pairs, edits of one portrait, and failures.

    python scripts/gallery.py docs/gallery
    python scripts/gallery.py docs/gallery --only showcase

Portraits and clips are the bundled ones and those in `docs/gallery/portraits`: people who do not exist.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import svdp
import typer
from PIL import Image
from svdp.animation.pipeline import LoadedModel
from svdp.cli.editing import EditConfig, run
from svdp.signals.crops import CropConfig, crop_frame, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import detect_face
from svdp.signals.video import VideoReader

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "assets" / "examples"
SIDE = 256
SHOWN = (8, 22, 36, 50)  # frames of a pair on its sheet
STRIPS = {
    "source.jpg": ("smile=0.4", "smile=0.9", "pucker=0.9", "mouth=0.6", "brows=0.9"),
    "source2.jpg": ("yaw=-22", "yaw=-11", "yaw=11", "yaw=22", "roll=12"),
    "gsl.jpg": ("lids=-1", "lids=0.6", "gaze_sideways=0.8", "gaze_sideways=-0.8", "gaze_up=0.8"),
}
FAILURES = {
    "source.jpg": ("yaw=30", "yaw=42"),
    "hidream.jpg": ("yaw=-38", "roll=40"),
    "bria.jpg": ("mouth=1,smile=0.8", "yaw=40,mouth=0.6"),
}
SHOWCASE = (("bria.jpg", "driving.mp4"), ("hidream.jpg", "driving2.mp4"))
Squares = tuple[np.ndarray, np.ndarray, np.ndarray]  # driver, draft and result (F, S, S, 3)


def main() -> None:
    """Make every picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("showcase", "pairs", "edits"), help="by default everything")
    options = parser.parse_args()
    out, only = options.out, options.only
    out.mkdir(parents=True, exist_ok=True)
    portraits = [EXAMPLES / "source.jpg", EXAMPLES / "source2.jpg", *sorted((out / "portraits").glob("*.jpg"))]
    drivers = [EXAMPLES / "driving.mp4", EXAMPLES / "driving2.mp4"]
    named = {path.name: path for path in (*portraits, *drivers)}
    if only in (None, "edits"):
        save(out / "edits.jpg", np.concatenate([strip(named[name], edits) for name, edits in STRIPS.items()]))
        save(out / "failures.jpg", np.concatenate([strip(named[name], edits) for name, edits in FAILURES.items()], 1))
    if only == "edits":
        return
    wanted = [(portrait, driver) for portrait in portraits for driver in drivers]
    shown = [(named[portrait], named[driver]) for portrait, driver in SHOWCASE]
    model, made = svdp.load_model(), {}
    for portrait, driver in shown if only == "showcase" else wanted:
        made[portrait, driver] = squares(portrait, driver, model)
        typer.echo(f"{portrait.stem} by {driver.stem}")
    if only in (None, "pairs"):
        rows = [pair(portrait, squares_) for (portrait, _), squares_ in made.items()]
        for number, part in enumerate(np.array_split(np.arange(len(rows)), 2), 1):
            save(out / f"pairs-{number}.jpg", np.concatenate([rows[n] for n in part]))
    if only in (None, "showcase"):
        moving([(portrait, made[portrait, driver]) for portrait, driver in shown], out / "showcase.webp")


def pair(portrait: Path, made: Squares) -> np.ndarray:
    """(3 S, 5 S, 3): source and driver, draft and result below, at four moments."""
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    first = (square_of(portrait), blank, blank)
    rows = []
    for label, row in zip(first, made, strict=True):
        rows.append(np.concatenate([label, *(row[min(n, len(row) - 1)] for n in SHOWN)], 1))
    return np.concatenate(rows)


def squares(portrait: Path, driver: Path, model: LoadedModel) -> Squares:
    """Driver, draft and result (F, S, S, 3)."""
    wanted = {"paste_back": False, "resolution": SIDE, "crop_scale": 1.4}
    result = svdp.animate(portrait, driver, model=model, **wanted).frames
    draft = svdp.animate(portrait, driver, model=model, draft=True, **wanted).frames
    assert result is not None and draft is not None
    shown = np.stack([middle(frame) for frame in VideoReader(driver)])
    return shown, draft, result


def moving(pairs: Sequence[tuple[Path, Squares]], path: Path) -> None:
    """An animation: source, driver, draft, result, a row for each portrait."""
    rows = []
    for portrait, made in pairs:
        source = np.repeat(square_of(portrait)[None], len(made[0]), 0)
        rows.append(np.concatenate([source, *made], 2))
    count = min(len(row) for row in rows)
    frames = np.concatenate([row[:count] for row in rows], 1)[::2]
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=66, loop=0, quality=70, method=6)
    save(path.with_suffix(".jpg"), frames[len(frames) // 3])


def strip(portrait: Path, edits: Sequence[str]) -> np.ndarray:
    """(S, n S, 3): the portrait, and it edited."""
    shown = [square_of(portrait)]
    with tempfile.TemporaryDirectory() as folder:
        for number, edit in enumerate(edits):
            made = Path(folder) / f"{number}.png"
            run(EditConfig(source=portrait, output=made, edit=edit, resolution=SIDE, paste_back=False, crop_scale=1.7))
            shown.append(load_image(made))
    return np.concatenate(shown, 1)


def square_of(portrait: Path) -> np.ndarray:
    """(S, S, 3) of a picture file: the face with some of its surroundings."""
    picture = load_image(portrait)
    crop = plan_crop(detect_face(picture), CropConfig(size=SIDE, scale=2.0))
    return crop_frame(picture, crop.affines[0], SIDE)


def middle(picture: np.ndarray) -> np.ndarray:
    """(S, S, 3): the middle square."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return cv2.resize(picture[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def save(path: Path, picture: np.ndarray) -> None:
    """As a JPEG file."""
    Image.fromarray(picture).save(path, quality=85)
    typer.echo(str(path))


if __name__ == "__main__":
    main()
