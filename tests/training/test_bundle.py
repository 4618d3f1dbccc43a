"""`svdp bundle`: what goes in is checked, and nothing is replaced that was not meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.adapter import Adapter, AdapterFile, save_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import build_transformer, save_transformer
from svdp.model.config import AdapterConfig, BaseArchitecture, SamplingConfig
from svdp.training.bundle import bundle
from svdp.training.setup import ADAPTER_FILE, BASE_FILE


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as training leaves it, and an autoencoder beside it."""
    run = tmp_path / "weights"
    run.mkdir()
    base = BaseArchitecture(width=32, depth=1, heads=1, table_size=12, context_dim=8, pooled_dim=8)
    save_transformer(run / BASE_FILE, build_transformer(base), {}, torch.float16)
    save_adapter(run / ADAPTER_FILE, AdapterFile(Adapter(AdapterConfig(base=base, video_head_dim=8))))
    TinyAutoencoder().save(tmp_path / "ae.safetensors")
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.is_dir() else {}


def test_three_files_of_one_mode_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        made = bundle(trained, tmp_path / "ae.safetensors", tmp_path / "out", "my-model", SamplingConfig(steps=2))
    finally:
        os.umask(old)
    assert sorted(files(tmp_path / "out")) == sorted(p.name for p in made)
    assert {p.stat().st_mode & 0o777 for p in made} == {0o640}


def test_what_is_there_is_replaced_only_when_asked(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "m_autoencoder.safetensors").write_text("precious")
    with pytest.raises(UserError, match=r"m_autoencoder\.safetensors exists already.*--overwrite"):
        bundle(trained, tmp_path / "ae.safetensors", out, "m", SamplingConfig())
    assert files(out) == {"m_autoencoder.safetensors": b"precious"}
    bundle(trained, tmp_path / "ae.safetensors", out, "m", SamplingConfig(), overwrite=True)
    assert files(out)["m_autoencoder.safetensors"] == (tmp_path / "ae.safetensors").read_bytes()
    own = out / "m_autoencoder.safetensors"
    with pytest.raises(UserError, match="is one of the files to bundle"):
        bundle(trained, own, out, "m", SamplingConfig(), overwrite=True)


@pytest.mark.parametrize("name", ["../name", "a/b", "..", "", "-x", "a\0b", "ä", "x" * 300])
def test_names_stay_in_the_folder(name: str, trained: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match="must be made of letters"):
        bundle(trained, tmp_path / "ae.safetensors", tmp_path / "out", name, SamplingConfig())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_picture_is_no_autoencoder_nor_a_foreign_base_a_base(trained: Path, tmp_path: Path, assets_dir: Path) -> None:
    with pytest.raises(UserError, match=r"autoencoder .*source\.jpg is damaged or not safetensors"):
        bundle(trained, assets_dir / "examples" / "source.jpg", tmp_path / "out", "m", SamplingConfig())
    with pytest.raises(UserError, match="is not a 16-channel TAESD"):
        bundle(trained, trained / ADAPTER_FILE, tmp_path / "out", "m", SamplingConfig())
    wide = BaseArchitecture(width=64, depth=1, heads=1, table_size=12, context_dim=8, pooled_dim=8)
    save_transformer(trained / BASE_FILE, build_transformer(wide), {}, torch.float16)
    with pytest.raises(AdapterMismatchError, match="different: width"):
        bundle(trained, tmp_path / "ae.safetensors", tmp_path / "out", "m", SamplingConfig())
    assert not (tmp_path / "out").exists()
