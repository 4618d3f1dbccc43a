"""`svdp animate --draft`: threads change nothing, and errors come in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from svdp.animation.config import AnimateConfig, WeightFiles
from svdp.animation.draft import PortraitInMaking
from svdp.animation.driver import DrivingSignals, draft_source, follow_driver
from svdp.errors import NoFaceError
from svdp.heads import pose
from svdp.heads.scene import draw_known, move_head
from svdp.signals.images import load_image
from svdp.signals.paste import Paster, paste_back
from svdp.signals.video import VideoReader

FRAMES = 20


@pytest.fixture(scope="module")
def cfg(assets_dir: Path) -> AnimateConfig:
    files = {"source": "source.jpg", "driving": "driving.mp4"}
    media = {name: assets_dir / "examples" / file for name, file in files.items()}
    nothing = WeightFiles(base=Path("none"), adapter=Path("none"), autoencoder=Path("none"))
    return AnimateConfig(**media, output=Path("out.mp4"), draft=True, resolution=128, weights=nothing)


@pytest.fixture(scope="module")
def source(cfg):
    return draft_source(load_image(cfg.source), cfg)


def head_of(source):
    return pose.PosedPortrait(source.picture, source.track, source.rule.size, source.rule.scale)


def test_frames_drawn_in_threads_are_those_drawn_one_by_one(cfg, source, monkeypatch):
    reader = VideoReader(cfg.driving, max_frames=FRAMES)
    with PortraitInMaking() as making:
        making.begin(source)
        signals = DrivingSignals(reader, follow_driver(reader, cfg, lambda _: None), source, cfg)
        signals.pose(source, cfg, making.result())
    drawn = [frame.picture for frame in signals.posed()]
    assert len(drawn) == FRAMES

    def alone(portrait, motion, affine):
        points = move_head(portrait.rig, portrait.subject, motion)
        pictures = (draw_known(portrait.rig, portrait.subject, p, affine) for p in points)
        return [pose.PosedFrame(*(a.round().clip(0, 255).astype(np.uint8) for a in (p, 255 * k))) for p, k in pictures]

    monkeypatch.setattr(pose.PosedPortrait, "_draw", alone)
    monkeypatch.setattr(pose, "in_order", map)
    signals.pose(source, cfg, head_of(source))
    affine, changes = source.crop.affines[0], []
    paste = Paster(source.picture, affine, source.rule.size)
    for square, frame in zip(drawn, signals.posed(), strict=True):
        assert np.abs(square.astype(int) - frame.picture).max() <= 1
        whole = paste(square)[0]
        assert np.abs(whole.astype(int) - paste_back(source.picture, frame.picture, affine)[0]).max() <= 2
        changes.append(np.abs(square.astype(int) - drawn[0]).mean())
    assert max(changes) > 1  # the head moves


@pytest.mark.parametrize("first, last", [(0, 5), (11, FRAMES), (9, 17)])
def test_some_frames_are_those_of_the_whole_to_the_bit(cfg, source, first, last):
    """So that a stopped run goes on to the same result, and a preview is its beginning."""
    reader = VideoReader(cfg.driving, max_frames=FRAMES)
    track = follow_driver(reader, cfg, lambda _: None)
    signals = DrivingSignals(reader, track, source, cfg)
    head = head_of(source)
    signals.pose(source, cfg, head)
    whole = list(signals.posed())
    part = DrivingSignals(reader, track, source, cfg, first)
    part.pose(source, cfg, head, last=last)
    some = list(part.posed())
    assert len(some) == last - first
    for made, expected in zip(some, whole[first:], strict=False):
        np.testing.assert_array_equal(made.picture, expected.picture)
        np.testing.assert_array_equal(made.known, expected.known)


def test_the_sheet_shows_the_frames_asked_for(cfg, source):
    reader = VideoReader(cfg.driving, max_frames=FRAMES)
    track = follow_driver(reader, cfg, lambda _: None)
    every = DrivingSignals(reader, track, source, cfg).take(FRAMES)
    some = list(DrivingSignals(reader, track, source, cfg).show([0, 7, 19]))
    assert [frames.first for frames in some] == [0, 7, 19]
    for frames in some:
        np.testing.assert_array_equal(frames.pictures[0], every.pictures[frames.first])
        np.testing.assert_array_equal(frames.masked[0], every.masked[frames.first])


def test_a_profile_is_refused_while_the_driver_is_still_followed(source):
    turn = np.radians(60)
    turned = source.track.matrices.copy()
    turned[0, :3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    with PortraitInMaking() as making:
        making.begin(replace(source, track=replace(source.track, matrices=turned)))
        with pytest.raises(NoFaceError, match="turned by 60 degrees"):
            making.result()
        with pytest.raises(NoFaceError):
            making.check()
