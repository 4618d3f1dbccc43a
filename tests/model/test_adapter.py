"""The adapter file and the base's names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.adapter import AdapterFile, check_base, load_adapter, save_adapter
from svdp.model.backends.diffusers import (
    Denoiser,
    architecture_from_config,
    build_transformer,
    load_transformer,
    merge_lora,
    save_transformer,
)
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.model.weights import architecture_of, to_diffusers, to_native

from .conftest import TINY, tiny_denoiser


def test_adapter_file_round_trip(tmp_path, noisy, conditions):
    d = tiny_denoiser(num_history=2, regions=("eyes", "mouth"))
    lora = {"transformer_blocks.0.attn.to_q.A.weight": torch.randn(2, 32), "transformer_blocks.0.attn.to_q.B.weight": torch.randn(32, 2)}  # fmt: skip # noqa: E501
    path = tmp_path / "a.safetensors"
    save_adapter(path, AdapterFile(d.adapter, lora, {"licence": "Apache-2.0", "step": 7}), torch.float32)
    back = load_adapter(path)
    assert back.adapter.config == d.adapter.config and back.info["licence"] == "Apache-2.0" and back.info["step"] == 7
    assert back.info["num_parameters"] == d.adapter.num_parameters()
    assert all(torch.equal(back.lora[k], v) for k, v in lora.items())
    again = Denoiser(d.transformer, back.adapter).train(False)
    with torch.no_grad():
        assert torch.equal(again(noisy, torch.tensor([0.5]), conditions), d(noisy, torch.tensor([0.5]), conditions))


def test_a_removed_setting_loads_at_its_default_and_is_refused_otherwise(tmp_path):
    d = tiny_denoiser()
    save_adapter(tmp_path / "a.safetensors", AdapterFile(d.adapter), torch.float32)
    tensors = load_file(str(tmp_path / "a.safetensors"))
    for density in (1, 2):
        config = json.dumps({**d.adapter.config.to_json(), "source_density": density})
        save_file(tensors, str(tmp_path / f"{density}.safetensors"), {"svdp.format": "1", "svdp.config": config})
    assert load_adapter(tmp_path / "1.safetensors").adapter.config == d.adapter.config
    with pytest.raises(UserError, match="source_density = 2, which this version no longer supports"):
        load_adapter(tmp_path / "2.safetensors")


def test_half_precision_file_is_exact_in_its_precision(tmp_path):
    d = tiny_denoiser()
    save_adapter(tmp_path / "a.safetensors", AdapterFile(d.adapter))
    back = load_adapter(tmp_path / "a.safetensors").adapter.state_dict()
    assert all(torch.equal(back[k], v.half().float()) for k, v in d.adapter.state_dict().items())


def test_damaged_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(AdapterMismatchError, match="does not exist"):
        load_adapter(path)
    path.write_bytes(b"garbage" * 50)
    with pytest.raises(AdapterMismatchError, match="damaged"):
        load_adapter(path)
    save_file({"x": torch.zeros(2)}, str(path))
    with pytest.raises(AdapterMismatchError, match="not an SVDP adapter"):
        load_adapter(path)
    save_file({"x": torch.zeros(2)}, str(path), metadata={"svdp.format": "99", "svdp.config": "{}"})
    with pytest.raises(AdapterMismatchError, match="format 99"):
        load_adapter(path)


def test_truncated_and_wrong_tensors_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    d = tiny_denoiser()
    save_adapter(path, AdapterFile(d.adapter))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterMismatchError, match="damaged"):
        load_adapter(path)
    path.write_bytes(whole)
    tensors = load_file(str(path))
    del tensors["roles"]
    header = {"svdp.format": "1", "svdp.config": json.dumps(d.adapter.config.to_json())}
    save_file(tensors, str(path), metadata=header)
    with pytest.raises(AdapterMismatchError, match="roles is missing"):
        load_adapter(path)


def test_mismatch_names_both_architectures():
    other = BaseArchitecture(width=64, depth=4, heads=4)
    with pytest.raises(AdapterMismatchError, match=r"width 32, 3 blocks.*width 64, 4 blocks.*different: width"):
        check_base(AdapterConfig(base=TINY, video_head_dim=8), other)


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="conditioning"):
        AdapterConfig(base=TINY, conditioning="magic", video_head_dim=8)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="head size 64"):
        AdapterConfig(base=TINY)
    with pytest.raises(UserError, match="base has 3"):
        AdapterConfig(base=TINY, video_head_dim=8, video_blocks=(0, 5))


@pytest.mark.parametrize("dual", [(), (0, 2)])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_names_round_trip(dual, qk_norm):
    base = BaseArchitecture(
        width=128, depth=3, heads=2, dual_blocks=dual, table_size=12, context_dim=8, pooled_dim=8, qk_norm=qk_norm
    )
    state = {k: v.clone() for k, v in build_transformer(base).state_dict().items()}
    before = {k: v.clone() for k, v in state.items()}
    native = to_native(state)
    assert architecture_of(native) == base
    back = to_diffusers(native)
    assert back.keys() == state.keys() and all(torch.equal(back[k], before[k]) for k in before)
    assert all(torch.equal(state[k], before[k]) for k in before)  # the input is not written to


def test_base_file_round_trip(tmp_path, noisy):
    d = tiny_denoiser()
    path = tmp_path / "base.safetensors"
    save_transformer(path, d.transformer, {"modelspec.title": "tiny"}, torch.float32)
    again = load_transformer(path)
    assert architecture_from_config(again.config) == TINY
    assert all(torch.equal(v, d.transformer.state_dict()[k]) for k, v in again.state_dict().items())


def test_diffusers_folder_loads_too(tmp_path):
    d = tiny_denoiser()
    d.transformer.save_pretrained(tmp_path / "model" / "transformer")
    again = load_transformer(tmp_path / "model")
    assert all(torch.equal(v, d.transformer.state_dict()[k]) for k, v in again.state_dict().items())


def test_files_that_hold_no_base(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_transformer(tmp_path / "no.safetensors")
    save_file({"unet.x": torch.zeros(1)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(UserError, match="SD3-family"):
        load_transformer(tmp_path / "x.safetensors")


def test_lora_is_added_with_its_strength():
    d = tiny_denoiser()
    layer = d.transformer.transformer_blocks[0].attn.to_q
    before = layer.weight.detach().clone()
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    lora = {"transformer_blocks.0.attn.to_q.A.weight": a, "transformer_blocks.0.attn.to_q.B.weight": b}
    merge_lora(d.transformer, lora, 0.0)
    assert torch.equal(layer.weight, before)
    merge_lora(d.transformer, lora, 0.5)
    torch.testing.assert_close(layer.weight, before + 0.5 * b @ a)
    with pytest.raises(AdapterMismatchError, match="lacks"):
        merge_lora(d.transformer, {"nowhere.A.weight": a, "nowhere.B.weight": b})
