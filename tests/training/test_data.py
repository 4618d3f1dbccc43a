"""Training data: shards, changes of appearance, configuration, and small builds from development material."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba")

from svdp.errors import UserError
from svdp.signals.regions import RegionConfig, region_masks
from svdp.signals.track import detect_face
from svdp.training.data.augmentation import DriverChanges
from svdp.training.data.build import build, encode_pictures, inspect, load_encoder, make_clip, shard_path
from svdp.training.data.clips import uncut_runs
from svdp.training.data.pictures import PictureClip, draw_colours, draw_paint, lift_dark, mirror, pool_masks
from svdp.training.data.providers import open_providers
from svdp.training.data.shards import describe_shards, load_shards, read_shard, write_shard
from svdp.training.data.sources import DataConfig, MediaSource, list_media, load_data_config, read_frames


def fake_clip(number, frames=3):
    rng = np.random.default_rng(number)
    latents = lambda n: rng.normal(size=(n, 16, 4, 4)).astype(np.float16)  # noqa: E731
    regions = (rng.random((frames, 3, 4, 4)) > 0.5).astype(np.uint8) * 255
    arrays = {"sources": latents(2), "target": latents(frames), "driving": latents(frames), "regions": regions}
    return f"{number:06d}", arrays, {"provider": "test", "number": number}


def test_shards_round_trip_in_order(tmp_path):
    write_shard(tmp_path / "b.tar", [fake_clip(2)])
    write_shard(tmp_path / "a.tar", [fake_clip(0), fake_clip(1)])
    paths = [tmp_path / "b.tar", tmp_path / "a.tar"]
    loaded = load_shards(paths)
    for number in range(3):
        for name, array in fake_clip(number)[1].items():
            np.testing.assert_array_equal(loaded[name][number], array)
            assert loaded[name].dtype == array.dtype
    assert [about["number"] for about in describe_shards(paths)] == [0, 1, 2]


def test_same_clips_give_the_same_bytes(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, [fake_clip(0), fake_clip(1)])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_shards_are_laid_out_as_webdataset_reads_them(tmp_path):
    """Files of a sample have its key as name, without dots, and follow each other."""
    write_shard(tmp_path / "a.tar", [fake_clip(5), fake_clip(6)])
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    keys = [fake_clip(n)[0] for n in (5, 6)]
    assert not any("." in key for key in keys)
    assert names == [f"{key}.{kind}" for key in keys for kind in ("npz", "json")]


def test_bad_shards_are_named(tmp_path):
    write_shard(tmp_path / "a.tar", [fake_clip(0)])
    write_shard(tmp_path / "longer.tar", [fake_clip(1, frames=5)])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut\.tar"):
        load_shards([tmp_path / "cut.tar"])
    with pytest.raises(UserError, match="differ in the shape of target"):
        load_shards([tmp_path / "a.tar", tmp_path / "longer.tar"])
    with pytest.raises(UserError, match="no shards"):
        load_shards([])


def test_a_flipped_byte_in_a_shard_is_named_or_harmless(tmp_path):
    write_shard(tmp_path / "a.tar", [fake_clip(0), fake_clip(1)])
    good, clips = (tmp_path / "a.tar").read_bytes(), load_shards([tmp_path / "a.tar"])
    rng, named = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(good)
        damaged[int(rng.integers(0, len(good)))] ^= int(rng.integers(1, 256))
        (tmp_path / "b.tar").write_bytes(damaged)
        try:
            read = load_shards([tmp_path / "b.tar"])
        except UserError as error:
            assert "b.tar" in str(error)
            named += 1
        else:
            assert all(np.array_equal(read[name], clips[name][: len(read[name])]) for name in clips)
    assert named > 100


def test_a_failed_shard_leaves_no_finished_file(tmp_path):
    def samples():
        yield fake_clip(0)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", samples())
    assert not (tmp_path / "a.tar").exists()


def test_pooled_masks_keep_every_touched_cell():
    masks = np.zeros((1, 3, 16, 16), np.uint8)
    masks[0, 1, 7, 8] = 255
    pooled = pool_masks(masks)
    assert pooled.shape == (1, 3, 2, 2) and pooled[0, 1].tolist() == [[0, 255], [0, 0]] and not pooled[0, [0, 2]].any()


def test_colour_changes():
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 5, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(draw_colours(np.random.default_rng(1), 0.0)(pictures), pictures, atol=0.01)
    changed = draw_colours(np.random.default_rng(1), 1.0)(pictures)
    assert np.abs(changed - pictures).mean() > 5 and changed.min() >= 0 and changed.max() <= 255
    masks = np.full((2, 3, 5, 5), 255, np.uint8)
    assert lift_dark(pictures / 50, masks).mean() == pytest.approx(45, rel=1e-3)
    np.testing.assert_array_equal(lift_dark(pictures, masks), pictures)


def test_paint_is_soft_varied_and_keeps_the_brightness():
    paint = [draw_paint(np.random.default_rng(n), 96) for n in (0, 0, 1)]
    np.testing.assert_array_equal(paint[0], paint[1])
    assert np.abs(np.log(paint[0]) - np.log(paint[2])).mean() > 0.1
    assert np.log(paint[0]).mean() == pytest.approx(0, abs=1e-3)
    assert np.abs(np.diff(np.log(paint[0]), axis=0)).max() < 0.15  # from pixel to pixel
    assert np.ptp(np.log(paint[0]), axis=(0, 1)).min() > 0.3  # over the picture


@pytest.mark.shared
def test_painted_people_wear_the_paint_on_photo_and_skin(small_config):
    from svdp.training.data.identities import load_inputs
    from svdp.training.data.posed import painted as paint

    portrait = load_inputs(small_config, "train").identities.portraits[0]
    painted = paint(draw_paint(np.random.default_rng(2), len(portrait.canvas)), portrait)
    np.testing.assert_array_equal(painted.points, portrait.points)
    seen = portrait.canvas.min(-1) > 20
    gain = (painted.canvas / np.maximum(portrait.canvas, 1))[seen & (painted.canvas.max(-1) < 255)]
    assert np.log(gain).std(0).min() > 0.05
    sure = np.nonzero((portrait.skin.trust > 0.95) & (painted.skin.colours.max(-1) < 250))[0][::50]
    columns, rows = portrait.points[sure, :2].astype(int).T
    there = np.log(painted.canvas[rows, columns] / np.maximum(portrait.canvas[rows, columns], 1))
    worn = np.log(painted.skin.colours[sure] / np.maximum(portrait.skin.colours[sure], 1))
    np.testing.assert_allclose(worn, there, atol=0.1)


def test_mirror_twice_is_the_same_clip():
    rng = np.random.default_rng(0)
    picture = lambda n: rng.integers(0, 255, (n, 8, 8, 3), np.uint8)  # noqa: E731
    clip = PictureClip(picture(2), picture(3), picture(3), rng.integers(0, 255, (3, 3, 8, 8), np.uint8), {})
    back = mirror(mirror(clip))
    for name in ("sources", "target", "driving", "masks"):
        np.testing.assert_array_equal(getattr(back, name), getattr(clip, name))
    np.testing.assert_array_equal(mirror(clip).masks[..., 0], clip.masks[..., -1])


def test_cuts_and_gaps_split_a_track(make_track):
    landmarks = np.zeros((10, 478, 3), np.float32)
    landmarks[:, 263, 0] = 50  # eye distance
    landmarks[6:] += 200  # a cut
    present = np.ones(10, bool)
    present[2] = False
    assert uncut_runs(make_track(landmarks, present)) == [(0, 2), (3, 6), (6, 10)]


@pytest.fixture
def make_track():
    from svdp.signals.track import FaceTrack

    def make(landmarks, present):
        n = len(landmarks)
        return FaceTrack(landmarks, np.zeros((n, 52), np.float32), np.eye(4)[None].repeat(n, 0), present, (400, 400))

    return make


CONFIG = """
[data]
head_model = "head.npz"
autoencoder = "encoder.safetensors"
size = 64
[roots]
here = "media"
[[media]]
root = "here"
origin = "test"
licence = "CC0"
portraits = ["a.png", "b.png"]
heldout = ["b*"]
"""


def test_configuration_paths_splits_and_mistakes(tmp_path):
    (tmp_path / "media").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "media" / name).touch()
    path = tmp_path / "data.toml"
    path.write_text(CONFIG)
    config = load_data_config(path, {"frames": 7})
    assert config.head_model == str(tmp_path / "head.npz") and config.frames == 7 and config.size == 64
    assert [m.name for m in list_media(config, "train", "portraits")] == ["a"]
    assert [m.name for m in list_media(config, "heldout", "portraits")] == ["b"]
    moved = load_data_config(path, {"roots": {"here": str(tmp_path / "elsewhere")}})
    with pytest.raises(UserError, match=r"elsewhere.*does not exist"):
        list_media(moved, "train", "portraits")
    for old, new, message in (
        ("size = 64", "sise = 64", "sise"),
        ("size = 64", "size = 65", "multiple of 8"),
        ('root = "here"', 'root = "there"', "there"),
        ('licence = "CC0"', "", "licence"),
        ("[data]", "[data", "not valid TOML"),
    ):
        path.write_text(CONFIG.replace(old, new))
        with pytest.raises(UserError, match=message):
            load_data_config(path)


def test_shipped_configuration_is_valid(root):
    config = load_data_config(root / "configs" / "mini-data.toml")
    assert config.size == 128 and config.frames == 19
    assert all(m.licence and m.origin for m in config.media)
    assert not any("LivePortrait" in file for m in config.media for file in (*m.portraits, *m.clips))


def test_moving_picture_gives_all_frames(tmp_path):
    from PIL import Image

    shades = [Image.fromarray(np.full((40, 40, 3), 60 * n, np.uint8)) for n in range(3)]
    shades[0].save(tmp_path / "a.webp", save_all=True, append_images=shades[1:], duration=50, lossless=True)
    frames, fps = read_frames(tmp_path / "a.webp")
    assert [int(f[0, 0, 0]) for f in frames] == [0, 60, 120] and fps == pytest.approx(20)


@pytest.fixture(scope="module")
def small_config(shared_dir, tmp_path_factory):
    """Two generated portraits and one corpus clip at 64 pixels: real, but small."""
    art = tuple(f"portraits/SadTalker__examples-source_image-art_{n}.png" for n in (10, 14, 19))
    clip = ("clips/LipNet__evaluation-samples-GRID-bbaf2n.mpg",)
    models = shared_dir / "models"
    return DataConfig(
        head_model=str(models / "ict_light_f16.npz"),
        autoencoder=str(models / "taesd3_encoder.safetensors"),
        media=(MediaSource(root="dev", origin="test", licence="test", portraits=art, clips=clip),),
        roots={"dev": str(shared_dir)},
        cache=str(tmp_path_factory.mktemp("cache")),
        size=64, frames=4, sources=2, clips_per_shard=3, clip_share=0.34,
    )  # fmt: skip


@pytest.mark.shared
def test_build_is_reproducible_and_resumes(small_config, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    manifest = build(small_config, first, "train", 6, seed=3)
    assert manifest["splits"]["train"]["clips"] == 6
    assert set(manifest["splits"]["train"]["providers"]) == {"rendered", "clip"}
    assert (
        "cache" not in (first / "manifest.json").read_text()
        and str(tmp_path) not in (first / "manifest.json").read_text()
    )
    shards = [shard_path(first / "train", 3, n) for n in range(2)]
    before = shards[0].stat().st_mtime_ns
    kept = shards[1].read_bytes()
    shards[1].unlink()
    build(small_config, first, "train", 6, seed=3)  # goes on where it was
    assert shards[0].stat().st_mtime_ns == before and shards[1].read_bytes() == kept
    build(small_config, second, "train", 3, seed=4)
    arrays = load_shards(shards)
    assert arrays["target"].shape == (6, 4, 16, 8, 8) and arrays["sources"].shape == (6, 2, 16, 8, 8)
    assert arrays["regions"].any(axis=(1, 3, 4)).all()  # every clip shows eyes, nose and mouth
    other = load_shards([shard_path(second / "train", 4, 0)])
    assert np.abs(other["target"][0].astype(float) - arrays["target"][0]).mean() > 0.05
    assert inspect(first).is_file()


@pytest.mark.shared
def test_sources_lie_in_the_targets_own_frame(small_config):
    """At inference the result is painted into the source's square: a background that rests lies where it lay."""
    from svdp.training.data.identities import load_inputs

    config = replace(small_config, clip_share=0.0, plain_share=1.0)
    providers = open_providers(config, load_inputs(config, "train"), "train")
    for n in range(6):
        clip = make_clip(providers, "train", 3, n)
        assert np.median(np.abs(clip.sources[:, None, 0, 0].astype(float) - clip.target[:, 0, 0])) == 0


@pytest.mark.shared
def test_drivers_lie_over_their_targets(small_config):
    """At inference the result's face is where the driver's is, whatever pose and place the two photos have."""
    from svdp.training.data.identities import load_inputs

    config = replace(small_config, clip_share=0.0, plain_share=0.0, size=128, driver=DriverChanges(affine=0.0))
    providers = open_providers(config, load_inputs(config, "train"), "train")
    for n in range(3):
        clip = make_clip(providers, "train", 7, n)
        face = detect_face(clip.target[0])
        own = region_masks(face.landmarks, (128, 128), RegionConfig())[0].any(0)
        shown = clip.masks[0].any(0)
        middles = [np.argwhere(mask).mean(0) for mask in (own, shown)]
        assert np.linalg.norm(middles[0] - middles[1]) < 2  # pixels; 4.3 on average with each in its own photo's place


@pytest.mark.shared
def test_driver_is_black_outside_its_regions(small_config, tmp_path):
    build(small_config, tmp_path, "train", 3, seed=5)
    encoder = load_encoder(small_config_encoder(small_config))
    black = encode_pictures(encoder, np.zeros((1, 64, 64, 3), np.uint8))[0]
    for _, arrays, _ in read_shard(shard_path(tmp_path / "train", 5, 0)):
        touched = arrays["regions"].any(axis=(0, 1))
        corner = touched[:2, :2]
        assert not corner.any()
        np.testing.assert_allclose(arrays["driving"][:, :, 0, 0], np.tile(black[:, 0, 0], (4, 1)), atol=0.2)
        assert np.abs(arrays["driving"][:, :, 3:5, 3:5] - black[:, 3:5, 3:5]).mean() > 0.4


def small_config_encoder(config):
    from pathlib import Path

    return Path(config.autoencoder)


@pytest.mark.shared
def test_missing_parts_are_named(small_config, tmp_path):
    with pytest.raises(UserError, match="split"):
        build(small_config, tmp_path, "test", 1, seed=0)
    with pytest.raises(UserError, match="no autoencoder"):
        build(replace(small_config, autoencoder="missing.safetensors"), tmp_path, "train", 1, seed=0)
    few = replace(small_config.media[0], heldout=("*art_10",), clips=())
    with pytest.raises(UserError, match="two usable portraits"):
        build(replace(small_config, media=(few,)), tmp_path, "heldout", 1, seed=0)
    with pytest.raises(UserError, match="no head model"):
        build(replace(small_config, head_model="missing.npz"), tmp_path, "train", 1, seed=0)
