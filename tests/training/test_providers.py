"""Where samples come from: pairs made elsewhere, their shares, what is done to drivers; builds are repeatable."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

pytest.importorskip("numba")

from svdp.errors import NoFaceError, UserError
from svdp.signals.motion import STEADY
from svdp.signals.track import detect_face
from svdp.signals.video import VideoReader
from svdp.training.data.augmentation import DriverChanges, disturb, driver_masks
from svdp.training.data.build import build, shard_path
from svdp.training.data.pairs import parts_of, read_pair
from svdp.training.data.providers import Providers
from svdp.training.data.shards import load_shards
from svdp.training.data.sources import DataConfig, MediaFile, MediaSource, list_media, load_data_config

# --- shares ----------------------------------------------------------------------------------------------------------


def test_each_provider_gets_its_share_of_what_is_left():
    made = lambda name: lambda rng: name  # noqa: E731
    providers = Providers([(0.5, made("pairs")), (0.2, made("clip"))], made("rendered"))
    counts = Counter(providers.make(np.random.default_rng(n)) for n in range(4000))
    for name, share in (("pairs", 0.5), ("clip", 0.1), ("rendered", 0.4)):
        assert counts[name] / 4000 == pytest.approx(share, abs=0.03)
    assert Providers([(0.0, made("clip"))], None).make(np.random.default_rng(0)) == "clip"


# --- the folder of pairs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, assets_dir) -> Path:
    """One pair in the documented layout: bundled media, the target being the driver (the motion is the same)."""
    pair = tmp_path_factory.mktemp("pairs") / "made" / "one--two"
    pair.mkdir(parents=True)
    clip = islice(VideoReader(assets_dir / "examples" / "driving.mp4"), 7)
    frames = [Image.fromarray(frame).resize((256, 256 * frame.shape[0] // frame.shape[1])) for frame in clip]
    for name in ("driving.webp", "target.webp"):
        frames[0].save(pair / name, save_all=True, append_images=frames[1:], duration=40, lossless=True, method=0)
    Image.open(assets_dir / "examples" / "source.jpg").resize((256, 256)).save(pair / "source.png")
    return pair.parent


@pytest.fixture(scope="module")
def pair_config(folder, assets_dir, tmp_path_factory) -> DataConfig:
    source = MediaSource(root="here", origin="test", licence="MIT", pairs=("made",))
    return DataConfig(
        autoencoder=str(next(assets_dir.rglob("*autoencoder.safetensors"))),
        media=(source,), roots={"here": str(folder.parent)}, cache=str(tmp_path_factory.mktemp("cache")),
        size=64, frames=5, sources=2, clips_per_shard=2, pair_share=1.0,
        driver=DriverChanges(occlusion=1.0, glasses=1.0, light=1.0, mask_jitter=0.05),
    )  # fmt: skip


def test_building_twice_gives_the_same_bytes_with_any_number_of_workers(pair_config, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        manifest = build(pair_config, tmp_path / name, "train", 4, seed=3, workers=workers)
        assert manifest["splits"]["train"]["providers"] == {"pairs": 4}
        assert list(manifest["splits"]["train"]["identities"]) == ["one--two"]
    for number in range(2):
        one, two = (shard_path(tmp_path / name / "train", 3, number).read_bytes() for name in ("one", "two"))
        assert one == two
    arrays = load_shards([shard_path(tmp_path / "one" / "train", 3, n) for n in range(2)])
    assert arrays["target"].shape == (4, 5, 16, 8, 8) and arrays["sources"].shape == (4, 2, 16, 8, 8)
    # the first source is the pair's picture, another person than the frames of its target
    target, first, second = (arrays[k].astype(float) for k in ("target", "sources", "sources"))
    assert np.abs(second[:, 1] - target[:, 0]).mean() < np.abs(first[:, 0] - target[:, 0]).mean()


def test_the_driver_of_a_pair_lies_over_its_target(tmp_path, folder, pair_config):
    """LivePortrait counts motion from the source's pose: its output is turned and placed otherwise than its driver."""
    pair = tmp_path / "one--two"
    shutil.copytree(folder / "one--two", pair)
    with Image.open(pair / "target.webp") as clip:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(clip)]
    turned = [frame.rotate(12, translate=(15, 0), resample=Image.Resampling.BICUBIC) for frame in frames]
    turned[0].save(pair / "target.webp", save_all=True, append_images=turned[1:], duration=40, lossless=True, method=0)
    (segment,) = read_pair(MediaFile("one--two", pair, "test", "MIT"), pair_config)
    apart = segment.driver.track.landmarks[:, STEADY, :2] - segment.target.track.landmarks[:, STEADY, :2]
    assert np.linalg.norm(apart, axis=2).mean() < 1.0  # pixels of 64; both faces are the same
    np.testing.assert_array_equal(segment.driver.frames.shape, segment.target.frames.shape)


def test_incomplete_pairs_are_named(folder, tmp_path):
    assert {p.suffix for p in parts_of(folder / "one--two").values()} == {".png", ".webp"}
    shutil.copytree(folder, tmp_path / "made")
    (tmp_path / "made" / "one--two" / "target.webp").unlink()
    with pytest.raises(UserError, match=r"one--two needs one target file \(such as target\.mp4\), it has none"):
        parts_of(tmp_path / "made" / "one--two")
    source = MediaSource(root="here", origin="t", licence="t", pairs=("none",))
    config = DataConfig(autoencoder="a", media=(source,), roots={"here": str(tmp_path)})
    with pytest.raises(UserError, match="none does not exist"):
        list_media(config, "train", "pairs")


# --- what is done to drivers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face(assets_dir):
    """A frame (1, H, W, 3) float32 and its landmarks (1, 478, 3)."""
    frame = next(iter(VideoReader(assets_dir / "examples" / "driving.mp4")))
    side = min(frame.shape[:2])
    return frame[None, :side].astype(np.float32), detect_face(frame).landmarks


def test_without_changes_a_driver_stays_as_it_is(face):
    pictures, landmarks = face
    assert disturb(np.random.default_rng(0), pictures, landmarks, DriverChanges()) is pictures


@pytest.mark.parametrize("name", ["light", "glasses", "occlusion"])
def test_changes_reach_the_eyes_or_the_whole_picture(face, name):
    pictures, landmarks = face
    before = pictures.copy()
    changed = disturb(np.random.default_rng(2), pictures, landmarks, DriverChanges(**{name: 1.0}))
    different = np.abs(changed - pictures).max(axis=(0, 3)) > 3
    assert (pictures == before).all() and changed.shape == pictures.shape
    assert different.mean() > (0.5 if name == "light" else 0.002)
    if name == "glasses":
        rows = np.flatnonzero(different.any(1))
        eyes = landmarks[0, [33, 133, 362, 263], 1]
        unit = np.linalg.norm(landmarks[0, 33, :2] - landmarks[0, 263, :2])
        assert rows.min() > eyes.min() - unit / 2 and rows.max() < eyes.max() + unit / 2


def test_mask_jitter_moves_masks_and_dropout_empties_them(face):
    _, landmarks = face
    size = 400
    landmarks = landmarks - landmarks[:, :, :3].min(1, keepdims=True) + 100
    draw = lambda **s: driver_masks(np.random.default_rng(5), landmarks, size, DriverChanges(**s))  # noqa: E731
    plain = draw()
    assert (plain == draw()).all() and plain.any(axis=(0, 2, 3)).all()
    jittered = draw(mask_jitter=0.1)
    overlap = ((plain > 0) & (jittered > 0)).sum() / ((plain > 0) | (jittered > 0)).sum()
    assert 0.2 < overlap < 0.95
    assert not draw(region_dropout=1.0).any()
    assert draw(dilation=(0.5, 0.5)).sum() > 1.3 * draw(dilation=(0.0, 0.0)).sum()


def test_driver_settings_are_read_and_checked(tmp_path):
    text = '[data]\nautoencoder = "a"\n[roots]\n[driver]\ndilation = [0.1, 0.3]\nocclusion = 0.2\n'
    (tmp_path / "data.toml").write_text(text)
    assert load_data_config(tmp_path / "data.toml").driver == DriverChanges(dilation=(0.1, 0.3), occlusion=0.2)
    for line, message in (("occlusion = 2", "between 0 and 1"), ("occlude = 1", "unknown setting occlude")):
        (tmp_path / "data.toml").write_text(text + line.replace("occlusion = 2", "glasses = 2"))
        with pytest.raises(UserError, match=message):
            load_data_config(tmp_path / "data.toml")


def test_a_face_is_needed(tmp_path, pair_config, folder):
    pair = tmp_path / "one--two"
    shutil.copytree(folder / "one--two", pair)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(pair / "source.png")
    with pytest.raises(NoFaceError, match=r"no face in .*source\.png"):
        read_pair(MediaFile("one--two", pair, "test", "MIT"), pair_config)
