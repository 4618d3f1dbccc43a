"""Make the table of MediaPipe's landmarks on a head model, once per model: no hand work, no other table needed.

A mean skin of some fitted photos is drawn on the neutral head; the landmarks that the tracker finds on that picture are
looked up on the mesh. The first fits use 68 points, the later ones the table just made.

Use: python -m svdp.heads.calibrate HEAD.npz TABLE.npz PHOTO...   (ten or more frontal photos, mouth closed)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..signals.crops import CropConfig, plan_crop, resample
from ..signals.images import load_image
from ..signals.track import detect_face
from .fit import fit_head
from .landmarks import LIPS, NUM_FACE, LandmarkTable, make_table
from .model import HeadModel, load_head_model
from .raster import rasterise, shade
from .scene import eye_directions
from .texture import anatomy, eye_angles, look_up, take_skin

SIZE = 512  # pixels of the pictures used
SPAN = 30.0  # centimetres that the drawn picture shows
JAW_OPEN = 0.35
ROUNDS = 3
EYES = np.array([(224, 216, 210), (80, 60, 45), (14, 11, 10)], np.float32)  # sclera, iris, pupil
GREY = 128.0


def calibrate(model: HeadModel, photos: Sequence[np.ndarray]) -> LandmarkTable:
    """The table, from photos (H, W, 3) uint8 with one face each. Raises NoFaceError."""
    squares = [_square(photo) for photo in photos]
    closed = model.neutral
    weights = np.zeros((1, len(model.names)), np.float32)
    weights[0, model.names.index("jawOpen")] = JAW_OPEN
    opened = model.express(closed, weights)[0]
    table = None
    for _ in range(ROUNDS):
        colours = np.mean([_skin_colours(model, table, *square) for square in squares], axis=0)
        renders = []
        for head, numbers in ((closed, np.arange(NUM_FACE)), (opened, LIPS)):
            screen = _frontal(head)
            picture = _draw(model, screen, colours)
            renders.append((screen, detect_face(picture).landmarks[0], numbers))
        table = make_table(model, renders, SIZE)
    assert table is not None
    return table


def _square(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face cut out (SIZE, SIZE, 3) float32, and its landmarks (478, 3) there."""
    track = detect_face(photo)
    affine = plan_crop(track, CropConfig(size=SIZE, position="locked")).affines[0]
    landmarks = track.landmarks[0] * affine[0, 0]
    landmarks[:, :2] += affine[:, 2]
    return resample(photo, affine, (SIZE, SIZE)).astype(np.float32), landmarks


def _skin_colours(
    model: HeadModel, table: LandmarkTable | None, photo: np.ndarray, landmarks: np.ndarray
) -> np.ndarray:
    """(V, 3) colours of one photo on the mesh."""
    fit = fit_head(model, landmarks, table)
    screen = fit.camera.project(model.express(model.person(fit.identity), fit.expression[None])[0])
    if table is None:
        return look_up(photo, screen)
    return take_skin(model, anatomy(model, table), screen, photo, landmarks).colours


def _frontal(head: np.ndarray) -> np.ndarray:
    """(V, 3) screen points of a head seen from the front."""
    scale = SIZE / SPAN
    return (head * [scale, -scale, scale] + [SIZE / 2, SIZE / 2 - scale, 0]).astype(np.float32)


def _draw(model: HeadModel, screen: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8 picture of the head on grey."""
    index, weights, _ = rasterise(screen, model.triangles, SIZE, SIZE)
    count, nothing = model.num_vertices, np.zeros((2, 2, 3), np.float32)
    none, whole = np.zeros(count, np.float32), np.ones(count, np.float32)
    eye = eye_directions(model, eye_angles(model), screen)
    layer = shade(
        index, weights, model.triangles, model.shading(), nothing, screen[:, :2].copy(), none,
        colours.astype(np.float32), whole, whole, eye, EYES,
    )  # fmt: skip
    return np.where(layer[..., 3:] > 0, layer[..., :3], GREY).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Entry point of `python -m svdp.heads.calibrate HEAD TABLE PHOTO...`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    arguments = parser.parse_args()
    photos = [load_image(path) for path in arguments.photos]
    calibrate(load_head_model(arguments.head), photos).save(arguments.table)


if __name__ == "__main__":
    main()
