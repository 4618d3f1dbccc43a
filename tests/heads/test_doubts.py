"""A good portrait raises no doubts; each flaw raises its own."""

from dataclasses import replace

import numpy as np
import pytest
from svdp.heads.doubts import find_doubts
from svdp.heads.fit import Camera, HeadFit, rotation_matrix
from svdp.signals.images import load_image
from svdp.signals.track import BLENDSHAPES, detect_face

FIT = HeadFit(np.zeros(2), np.zeros(2), Camera(np.eye(3), 5.0, np.zeros(3)), 0.02)


@pytest.fixture(scope="module")
def face(assets_dir):
    return detect_face(load_image(assets_dir / "examples" / "source.jpg"))


def turned(face, *angles):
    matrices = face.matrices.copy()
    matrices[0, :3, :3] = rotation_matrix(*angles)
    return replace(face, matrices=matrices)


def shaped(face, **values):
    blendshapes = face.blendshapes.copy()
    for name, value in values.items():
        blendshapes[0, BLENDSHAPES.index(name)] = value
    return replace(face, blendshapes=blendshapes)


def test_a_good_portrait_raises_none(face):
    assert find_doubts(face, FIT) == []


def test_each_flaw_is_named(face):
    flaws = {
        "turned by 35": (turned(face, 35, 0, 0), FIT),
        "looks up by 30": (turned(face, 0, -30, 0), FIT),
        "looks down by 30": (turned(face, 0, 30, 0), FIT),
        "eyes are closed": (shaped(face, eyeBlinkLeft=0.8, eyeBlinkRight=0.7), FIT),
        "wide open": (shaped(face, jawOpen=0.6), FIT),
        "pixels apart": (replace(face, landmarks=face.landmarks * 0.2), FIT),
        "fit no person": (face, replace(FIT, error=0.06)),
    }
    for said, (flawed, fit) in flaws.items():
        (doubt,) = find_doubts(flawed, fit)
        assert said in doubt
