"""TOML files that extend others, runs without history, and settings that are younger than a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from svdp.errors import UserError
from svdp.training.autoencoder import AutoencoderConfig
from svdp.training.config import config_from_json, load_config, parse_config
from svdp.training.data.sources import load_data_config
from svdp.training.loop import _check_same
from svdp.training.tables import read_toml

from .conftest import tiny_table
from .test_loop import _toml


def test_extends_changes_only_the_keys_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(_toml(tiny_table(tmp_path)))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "joint.toml").write_text('extends = "../base.toml"\n[adapter]\nconditioning = "joint"\n')
    (tmp_path / "sub" / "short.toml").write_text('extends = "joint.toml"\nsteps = 4\n[[stage]]\nbatch = 1\n')
    base, joint, short = (load_config(tmp_path / p) for p in ("base.toml", "sub/joint.toml", "sub/short.toml"))
    assert joint.adapter.conditioning == "joint" and base.adapter.conditioning == "cached"
    assert joint.to_json() | {"adapter": 0} == base.to_json() | {"adapter": 0}
    assert joint.adapter.segment_length == base.adapter.segment_length == 4
    assert short.adapter == joint.adapter
    assert (short.steps, len(short.stages), short.stages[0].batch) == (4, 1, 1)  # a list is replaced as a whole


def test_extends_mistakes_are_named(tmp_path: Path) -> None:
    for name, text, message in (
        ("a", 'extends = "none.toml"', r"none\.toml, which .*a\.toml extends"),
        ("b", 'extends = "b.toml"', r"b\.toml extends itself"),
        ("c", 'extends = ["b.toml"]', "must be the name of a TOML file"),
    ):
        (tmp_path / f"{name}.toml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_toml(tmp_path / f"{name}.toml")


def test_dropping_history_gives_its_share_to_the_driver(tmp_path: Path) -> None:
    config = parse_config({**tiny_table(tmp_path), "drop_history": True})
    assert [s.history for s in config.stages] == [0, 0] and config.adapter.num_history == 0
    assert config.stages[0].branches.values == (0.05, 0.1, 0.85, 0.0)
    assert config.stages[1].branches.values == pytest.approx((0.1, 0.1, 0.8, 0.0))
    assert config.window == 4  # was 6: four frames and two of history


def test_settings_come_back_from_json_and_younger_ones_have_their_defaults(tmp_path: Path) -> None:
    config = parse_config(tiny_table(tmp_path))
    saved = config.to_json()
    assert config_from_json(saved) == config
    del saved["start"], saved["optim"]["ema"]
    _check_same(saved, config.to_json(), "checkpoint")
    saved["optim"]["ema"] = 0.5
    with pytest.raises(UserError, match="other settings of: optim"):
        _check_same(saved, config.to_json(), "checkpoint")


@pytest.mark.parametrize("broken", ["base", "adapter", "stage", "data", "optim", "loss"])
def test_a_number_where_a_table_belongs_is_named(tmp_path: Path, broken: str) -> None:
    with pytest.raises(UserError, match=broken):
        parse_config({**tiny_table(tmp_path), broken: 5}, "a.toml")


def test_toml_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'name = "\xff\xfe"\n')
    with pytest.raises(UserError, match=r"a\.toml is not text in UTF-8: save it as UTF-8"):
        load_config(tmp_path / "a.toml")


@pytest.mark.parametrize("text", ["data = 1", "roots = 1", "media = 1", "media = [1]", "driver = 1", "[roots]\na = 1"])
def test_data_tables_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text + "\n")
    with pytest.raises(UserError, match=text.split()[0].strip("[]")):
        load_data_config(tmp_path / "a.toml")


@pytest.mark.parametrize("text", ["size = '128'", "frames = 1.5", "autoencoder = 1", "pair_share = 'half'"])
def test_data_settings_of_another_type_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(f"[data]\n{text}\n")
    with pytest.raises(UserError, match=rf"a\.toml: \[data\] {text.split()[0]} must be a"):
        load_data_config(tmp_path / "a.toml")


@pytest.mark.parametrize("text", ["crops = 1", "batch = 'x'", "teacher = 1", "metadata = 1", "[crops]\nsize = 'x'"])
def test_autoencoder_settings_of_another_type_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text + "\n")
    with pytest.raises(UserError, match=text.split("\n")[-1].split()[0]):
        AutoencoderConfig.from_table(read_toml(tmp_path / "a.toml"), tmp_path)
