"""`svdp train`, `svdp bundle` and their user errors, through the command line's own entry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from svdp.cli.app import run
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder

from .conftest import tiny_table
from .test_loop import _toml


def svdp(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run([str(a) for a in arguments])
    return int(ended.value.code or 0)


def test_train_resume_and_bundle(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(_toml(tiny_table(shards)))
    assert svdp("train", config, "--out", out, "--steps", 2) == 0
    assert svdp("train", config, "--out", out, "--steps", 2) == 2
    assert "--resume" in capsys.readouterr().err
    assert svdp("train", config, "--out", out, "--steps", 3, "--resume") == 0
    ae = tmp_path / "ae.safetensors"
    TinyAutoencoder().save(ae)
    made = tmp_path / "made"
    options = ("--autoencoder", ae, "--steps", 9, "--fusion-source", 1.25, "--shift", 1.5)
    assert svdp("bundle", out / "weights", made, *options) == 0
    assert sorted(p.name for p in made.iterdir()) == [
        "mini_adapter.safetensors", "mini_autoencoder.safetensors", "mini_base.safetensors",
    ]  # fmt: skip
    sampling = load_adapter(made / "mini_adapter.safetensors").info["sampling"]
    assert (sampling["steps"], sampling["shift"], sampling["fusion"]["source"]) == (9, 1.5, 1.25)
    assert "seed" not in sampling


def test_start_from_a_folder_of_weights(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(tiny_table(shards, steps=1, optim={"lr": 1e-9})))
    assert svdp("train", config, "--out", tmp_path / "first") == 0
    assert svdp("train", config, "--out", tmp_path / "second", "--start", tmp_path / "first" / "weights") == 0
    for name in ("base", "adapter"):
        first, second = (load_file(tmp_path / run / "weights" / f"{name}.safetensors") for run in ("first", "second"))
        for key in first:
            torch.testing.assert_close(second[key], first[key], atol=1e-3, rtol=1e-3)
    assert svdp("train", config, "--out", tmp_path / "second", "--steps", 2, "--resume") == 0  # the start is past
    assert svdp("train", config, "--out", tmp_path / "third", "--start", tmp_path) == 2
    assert "needs one *adapter.safetensors" in capsys.readouterr().err


def test_estimate_is_printed(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(tiny_table(tmp_path / "no-data")))
    assert svdp("train", config, "--estimate") == 0
    printed = capsys.readouterr().out
    for words in ("0.1 M weights", "activations", "GiB at the peak", "the whole model on this machine", "6 steps"):
        assert words in printed


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("kind = 'magic'")
    for arguments, words in (
        (("train", tmp_path / "no.toml"), "no such configuration"),
        (("train", bad), "magic"),
        (("bundle", tmp_path, tmp_path / "o", "--autoencoder", tmp_path / "ae.safetensors"), "nothing to bundle"),
        (("data", "build", tmp_path / "no.toml", tmp_path / "o"), "no configuration"),
        (("data", "inspect", tmp_path), "no shards"),
    ):
        assert svdp(*arguments) == 2
        assert words in capsys.readouterr().err


def test_a_training_that_fails_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(tiny_table(tmp_path / "no-data")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    for out in (tmp_path / "runs" / "new", tmp_path / "mine"):
        assert svdp("train", config, "--out", out) == 2
        assert "no-data" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() and (tmp_path / "mine" / "notes.txt").read_text() == "kept"
