"""The recipe of a bundled model, whole: from the bundled portraits and clips to an assets folder, at toy size."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from svdp.errors import UserError
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.training.data.posed import World, make_sample
from svdp.training.data.renderers import fit_world
from svdp.training.recipe import load_recipe

SIZE, FRAMES = 64, 4
MEDIA = """
[data]
size = 64
crop_scale = 1.4
autoencoder = ""
head_model = ""

[roots]
examples = "."

[[media]]
root = "examples"
origin = "this project"
licence = "MIT"
portraits = ["source.jpg", "source2.jpg", "driving.mp4", "driving2.mp4"]
clips = ["driving.mp4", "driving2.mp4"]
heldout = ["source2", "driving2"]
"""
PAIRS = """
[[pair]]
name = "example"
source = "source.jpg"
driving = "driving.mp4"
max_frames = 3
"""
RECIPE = """
name = "toy"
pairs = "pairs.toml"

[inputs]
data = "media.toml"
head = "{assets}/head/makehuman.npz"
head_table = "{assets}/head/makehuman_landmarks.npz"
head_modes = 30
teacher = "{assets}/vae/mini_autoencoder.safetensors"

[samples]
size = 64
crop_scale = 1.4
frames = 4

[pool]
clips = 3
photos = 8
heldout = 1

[adapter]
driving = "aligned"
source = "both"
aligned = "pixels"
posed = true
copy_gate = true
gate = "open"
segment_length = 2
num_history = 1
resolution = 64
crop_scale = 1.4
video_width = 32
video_head_dim = 16
video_blocks = [1]
context_tokens = 1

[adapter.base]
width = 64
depth = 2
heads = 2
table_size = 12
context_dim = 8
pooled_dim = 8

[autoencoder]
steps = 2
crop = 32
batch = 2
skipped_blocks = ["taesd_encoder.4"]
crops = {{ size = 80 }}

[[stage]]
steps = 1
clips = 1
frames = 2
photos = 2

[[stage]]
steps = 2
clips = 1
frames = 2
photos = 2
decoder_lr = 3e-4

[sampling]
steps = 1
fusion = {{ source = 1.0, driving = 1.0 }}
"""


VARIANTS = """
[[variant]]
name = "all"

[[variant]]
name = "again"

[[variant]]
name = "no posed source"
draft_share = 0.0
adapter = { posed = false, copy_gate = false }

[[variant]]
name = "rendered alone"
inverse_pairs = false
"""


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_bundled", root / "scripts" / "make_bundled.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_bundled.py", *map(str, arguments)])
        script.main()


@pytest.fixture(scope="module")
def made(script: ModuleType, assets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all steps, stopped once on the way."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, text in {"media": MEDIA, "pairs": PAIRS, "recipe": RECIPE.format(assets=assets_dir)}.items():
        (folder / f"{name}.toml").write_text(text)
    examples = assets_dir / "examples"
    command = [folder / "recipe.toml", folder / "out", "--workers", 2, "--root", f"examples={examples}"]
    run(script, *command, "--until", "pack")
    assert {p.name for p in (folder / "out").iterdir()} == {"pack", "pack.done"}
    run(script, *command, "--media", examples)
    return folder / "out"


@pytest.mark.slow
def test_the_recipe_goes_from_media_to_assets(made: Path) -> None:
    names = ("base/toy_base", "svdp/toy_adapter", "vae/toy_autoencoder")
    assert sorted(made.glob("assets/*/*")) == sorted(made / "assets" / f"{name}.safetensors" for name in names)
    adapter = load_adapter(made / "assets" / "svdp" / "toy_adapter.safetensors")
    assert adapter.adapter.config == load_recipe(made.parent / "recipe.toml").adapter
    assert adapter.info["sampling"]["steps"] == 1 and adapter.info["training"]["step"] == 2
    first, last = (TinyAutoencoder.load(made / name) for name in ("autoencoder/autoencoder.safetensors",
                   "assets/vae/toy_autoencoder.safetensors"))  # fmt: skip
    assert first.skipped_blocks == last.skipped_blocks == ("taesd_encoder.4",)
    changed = {k for k, v in first.state_dict().items() if not v.equal(last.state_dict()[k])}
    assert changed and all(name.startswith("taesd_decoder") for name in changed)  # trained in the second stage
    results = json.loads((made / "evaluation" / "results.json").read_text())
    assert results["median"]


@pytest.mark.slow
def test_variants_are_trained_side_by_side(
    root: Path, assets_dir: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    script = importlib.import_module("train_variants")
    shutil.copytree(made / "pack", tmp_path / "pack")
    (tmp_path / "variants.toml").write_text(VARIANTS)
    arguments = [made.parent / "recipe.toml", tmp_path / "variants.toml", tmp_path, "--steps", 3, "--heldout", 1]
    arguments += ["--wait", 2, "--autoencoder", assets_dir / "vae" / "mini_autoencoder.safetensors"]
    monkeypatch.setattr("sys.argv", ["train_variants.py", *map(str, arguments)])
    script.main()
    found = json.loads((tmp_path / "variants" / "variants.json").read_text())
    samples = len(found["kinds"])
    assert list(found["variants"]) == ["all", "again", "no posed source", "rendered alone"]
    assert all(len(scores) == samples for v in found["variants"].values() for scores in v.values())
    assert found["variants"]["all"] == found["variants"]["again"]  # the same weights, draws and budget
    assert found["variants"]["all"] != found["variants"]["no posed source"] != found["variants"]["rendered alone"]
    assert [point["step"] for point in found["curve"]] == [0, 1, 2, 3]
    assert "| no posed source |" in (tmp_path / "variants" / "variants.md").read_text()


@pytest.mark.slow
def test_what_is_done_is_kept(script: ModuleType, made: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()}
    run(script, made.parent / "recipe.toml", made)
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()} == before


@pytest.fixture(scope="module")
def world(script: ModuleType, made: Path) -> World:
    from argparse import Namespace

    recipe = load_recipe(made.parent / "recipe.toml")
    return fit_world(script.open_split(recipe, Namespace(out=made), "train"), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "frames"), [("rendered", FRAMES), ("photo", 1), ("clip", FRAMES)])
def test_samples_hold_what_the_model_sees(world, kind, frames):
    sample = make_sample(np.random.default_rng(1), world, kind)
    assert sample.source.shape == (SIZE, SIZE, 3) and sample.target.shape == (frames, SIZE, SIZE, 3)
    assert sample.posed.shape == sample.driver.shape == (frames, SIZE, SIZE, 4)
    hidden = sample.driver[..., 3] == 0
    assert 0.5 < hidden.mean() < 0.99 and not sample.driver[..., :3][hidden].any()
    gap = np.abs(sample.posed[..., :3].astype(float) - sample.target).mean()
    still = np.abs(sample.posed[..., :3].astype(float) - sample.posed[..., ::-1, :, :3]).mean()
    assert gap < still  # the posed source lies where the target is
    again = make_sample(np.random.default_rng(1), world, kind)
    assert np.array_equal(again.target, sample.target) and np.array_equal(again.posed, sample.posed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("frames = 4", "frames = 2"), "frames must be at least 3"),
        (("size = 64", "size = 32"), "size and crop_scale"),
        (("head_modes", "head_mode"), "unknown setting head_mode"),
        (("[[stage]]", "[[stages]]"), "at least one"),
    ],
)
def test_a_wrong_recipe_is_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.format(assets="assets").replace(*change))
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage = 3", r"stage must be a list of tables, \[\[stage\]\], got 3"), ("stage = [3]", "stage must be a list"),
        ("inputs = 3", r"inputs must be a table, \[inputs\], got 3"),
        ("autoencoder = [1]", "autoencoder must be a table"), ("stage = [{}]\nadapter = 3", "adapter must be a table"),
        ("pairs = 3\nname = 'a'\nstage = []", "inputs|adapter|samples|sampling"),
    ],
)  # fmt: skip
def test_a_recipe_of_wrong_types_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "r.toml")


def test_a_missing_input_is_named(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.format(assets=tmp_path))
    with pytest.raises(UserError, match=r"makehuman.* is missing.*\[inputs\]"):
        run(script, tmp_path / "r.toml", tmp_path / "out")
