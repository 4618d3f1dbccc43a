"""Training of the autoencoder on drawn pictures: it learns, it resumes exactly, its crops show what they should."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from svdp.errors import UserError
from svdp.model.autoencoder import TinyAutoencoder
from svdp.training import autoencoder as module
from svdp.training.autoencoder import AutoencoderConfig, draw_pictures, picture_loss, train
from svdp.training.data.autoencoder_pictures import (
    CropsConfig,
    allowed_files,
    build_crops,
    find_files,
    read_frames,
    square,
)
from svdp.training.optim import orthogonalise


def drawing(seed: int, size: int = 48) -> np.ndarray:
    """A colour gradient with a disc on it."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:size, :size] / size
    picture = xs[..., None] * rng.uniform(0, 255, 3) + (1 - xs)[..., None] * rng.uniform(0, 255, 3)
    disc = (ys - rng.uniform(0.3, 0.7)) ** 2 + (xs - rng.uniform(0.3, 0.7)) ** 2 < rng.uniform(0.02, 0.1)
    return np.where(disc[..., None], rng.uniform(0, 255, 3), picture).astype(np.uint8)


@pytest.fixture
def config(tmp_path) -> AutoencoderConfig:
    torch.manual_seed(7)
    teacher = TinyAutoencoder()
    teacher.save(tmp_path / "teacher.safetensors")
    for index in range(4):
        Image.fromarray(drawing(index)).save(tmp_path / f"picture{index}.png")
    return AutoencoderConfig(
        teacher=str(tmp_path / "teacher.safetensors"),
        pictures=(str(tmp_path / "picture*.png"),),
        crops=CropsConfig(size=32, num_faces=0, num_parts=0, num_masked=0, num_textures=4, min_side=24),
        crop=16,
        batch=4,
        steps=16,
        warmup=3,
        ema=0.9,
        bf16=False,
        threads=1,
        log_every=4,
        save_every=4,
    )


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_lowers_both_losses_and_writes_usable_weights(config, tmp_path):
    weights = train(config, tmp_path / "run")
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8, 12, 16]
    assert lines[-1]["latent"] < 0.6 * lines[0]["latent"]
    assert lines[-1]["picture"] < 0.8 * lines[0]["picture"]
    model = TinyAutoencoder.load(weights)
    picture = torch.from_numpy(drawing(9)).permute(2, 0, 1)[None] / 255
    assert model.decode(model.encode(picture)).shape == picture.shape


def test_resumed_run_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    config = replace(config, steps=6)
    whole = train(config, tmp_path / "whole")
    step = module._Run.train_step

    def interrupted(run, pictures):
        if run.progress.step == 5:  # the checkpoint is of step 4: one step is done again
            raise KeyboardInterrupt
        return step(run, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    resumed = train(config, tmp_path / "cut", resume=True)
    a, b = TinyAutoencoder.load(whole).state_dict(), TinyAutoencoder.load(resumed).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_runs_do_not_overwrite_each_other(config, tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        train(config, tmp_path / "run", resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").touch()
    with pytest.raises(UserError, match="holds a run already"):
        train(config, tmp_path / "run")


def test_pictures_of_a_step_depend_on_seed_and_step_alone(config):
    crops = torch.from_numpy(np.stack([drawing(i, 32) for i in range(5)]))
    assert torch.equal(draw_pictures(crops, config, 3), draw_pictures(crops, config, 3))
    assert not torch.equal(draw_pictures(crops, config, 3), draw_pictures(crops, config, 4))
    pictures = draw_pictures(crops, config, 3)
    assert pictures.shape == (4, 3, 16, 16) and pictures.min() >= 0 and pictures.max() <= 1


def test_picture_loss_sees_every_kind_of_error():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    none = picture_loss(x, x)
    shifted, blurred = x + 0.05, torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert picture_loss(shifted, x) > 10 * none and picture_loss(blurred, x) > 10 * none


def test_orthogonalised_matrices_have_singular_values_near_one():
    for shape in ((8, 72), (72, 8)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.min() > 0.6 and values.max() < 1.3


def test_square_stays_inside_the_picture():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 255
    assert (square(image, np.array([0.0, 0.0]), 20, 16) == 0).all()
    assert (square(image, np.array([90.0, 90.0]), 20, 16) == 255).all()
    assert square(image, np.array([30.0, 20.0]), 500, 16).shape == (16, 16, 3)


def test_frames_of_an_animation_are_evenly_spaced(tmp_path):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in range(0, 250, 25)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    reds = [int(frame[0, 0, 0]) for frame in read_frames(tmp_path / "a.webp", 4)]
    assert reds == [0, 75, 150, 225]


def test_unreadable_pictures_are_left_out(tmp_path, caplog):
    Image.fromarray(drawing(0)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    cfg = CropsConfig(size=16, num_faces=0, num_parts=0, num_masked=0, num_textures=3, min_side=16)
    out = build_crops(find_files((str(tmp_path / "*.png"),), None, tmp_path), tmp_path / "crops.npy", cfg)
    assert np.load(out).shape == (3, 16, 16, 3)
    assert "bad.png" in caplog.text


def test_only_allowed_rows_of_the_manifest_are_used(tmp_path):
    rows = ["file,may_train_bundled_weights", 'a.png,"yes (CC BY 4.0, attribution)"', "b.png,no: tests only"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    assert allowed_files(tmp_path / "manifest.csv") == [tmp_path / "a.png"]


def test_configuration_file_is_complete_and_relative_to_itself(root):
    import sys

    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    table = tomllib.loads((root / "configs" / "autoencoder.toml").read_text())
    assert table["kind"] == "autoencoder"
    cfg = AutoencoderConfig.from_table(table, root / "configs")
    assert Path(cfg.manifest).resolve() == root / "data" / "autoencoder" / "manifest.csv"
    assert all(Path(p).is_absolute() for p in cfg.pictures)


@pytest.mark.parametrize(
    "table, message",
    [
        ({"teacher": "a", "pictures": ["*.png"], "lrate": 1}, "unknown settings lrate"),
        ({"teacher": "a", "pictures": ["*.png"], "crops": {"sizes": 1}}, r"sizes in \[crops\]"),
        ({"teacher": "a", "pictures": ["*.png"], "crop": 20}, "multiple of 8"),
        ({"teacher": "a"}, "needs training pictures"),
        ({"pictures": ["*.png"]}, "teacher"),
    ],
)
def test_bad_settings_are_refused(table, message, tmp_path):
    with pytest.raises(UserError, match=message):
        AutoencoderConfig.from_table(table, tmp_path)


@pytest.mark.shared
def test_face_crops_show_faces_and_masked_frames_are_mostly_black(shared_dir, tmp_path):
    portrait = shared_dir / "portraits" / "SadTalker__examples-source_image-art_0.png"
    cfg = CropsConfig(num_faces=1, num_parts=1, num_masked=1, num_textures=0)
    crops = {tuple(c.reshape(-1)): c for c in np.load(build_crops([portrait], tmp_path / "crops.npy", cfg))}
    black = sorted(float((c.max(-1) == 0).mean()) for c in crops.values())
    assert len(black) == 5  # face, two eyes, mouth, masked frame
    assert black[-1] > 0.5 and black[-2] < 0.2
