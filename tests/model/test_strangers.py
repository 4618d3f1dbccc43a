"""Model files that anyone may have written: each fault is one line that names file and field."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.adapter import AdapterFile, load_adapter, save_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import load_transformer, merge_lora, save_transformer
from svdp.model.backends.diffusers_vae import load_autoencoder
from svdp.model.checks import build, check_fields
from svdp.model.config import AdapterConfig, FusionConfig, SamplingConfig, sampling_from_info

from .conftest import TINY, tiny_denoiser

Header = dict[str, str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter, a base, a diffusers folder of it and an autoencoder, all sound."""
    folder, d = tmp_path_factory.mktemp("whole"), tiny_denoiser()
    rank = {"transformer_blocks.0.attn.to_q.A.weight": torch.randn(2, 32), "transformer_blocks.0.attn.to_q.B.weight": torch.randn(32, 2)}  # fmt: skip # noqa: E501
    save_adapter(folder / "adapter.safetensors", AdapterFile(d.adapter, rank, {"sampling": {"steps": 2}}))
    save_transformer(folder / "base.safetensors", d.transformer, {}, torch.float32)
    d.transformer.save_pretrained(folder / "model" / "transformer")
    TinyAutoencoder().save(folder / "autoencoder.safetensors")
    return folder


def altered(source: Path, target: Path, change: Callable[[Tensors, Header], None]) -> Path:
    """A copy of a file after `change(tensors, header)`."""
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        header = dict(file.metadata() or {})
    change(tensors, header)
    save_file(tensors, target, metadata=header)
    return target


def message(load: Callable[[], object], path: Path) -> str:
    """What a loader says; it must be one line that names the file."""
    with pytest.raises(UserError) as caught:
        load()
    said = str(caught.value)
    assert path.name in said and "\n" not in said and len(said) < 700, said
    return said


def set_field(name: str, value: Any) -> Callable[[Tensors, Header], None]:
    """Another value of a setting, `base.` before those of the base."""

    def change(tensors: Tensors, header: Header) -> None:
        config = json.loads(header["svdp.config"])
        table = config["base"] if name.startswith("base.") else config
        table[name.removeprefix("base.")] = value
        header["svdp.config"] = json.dumps(config)

    return change


SETTINGS = [
    ("base.depth", 1_000_000), ("base.depth", "3"), ("base.depth", True), ("base.width", 0), ("base.width", -4),
    ("base.width", 2**70), ("base.heads", 0), ("base.heads", 7), ("base.dual_blocks", [9]), ("base.dual_blocks", 3),
    ("base.channels", 0), ("base.patch", 1e9), ("base.table_size", 10**9), ("base.qk_norm", "yes"), ("base.extra", 1),
    ("base", None), ("base", [1]), ("conditioning", "magic"), ("conditioning", None), ("gate", "ajar"),
    ("driving", ["both"]), ("aligned", 1), ("posed", "true"), ("copy_gate", True), ("segment_length", 0),
    ("segment_length", 10**9), ("segment_length", 2.5), ("num_history", -1), ("resolution", 0),
    ("resolution", 10**9), ("crop_scale", float("nan")), ("crop_scale", 0), ("crop_scale", float("inf")),
    ("regions", []), ("regions", ["chin"]), ("regions", "eyes"), ("video_width", -8), ("video_width", 7),
    ("video_head_dim", 0), ("video_blocks", [0, 0]), ("video_blocks", [1_000_000]), ("video_blocks", [0.5]),
    ("rotary_theta", float("nan")), ("rotary_theta", -1), ("context_tokens", 0), ("context_tokens", 10**12),
    ("token_multiple", 0), ("token_multiple", "8"), ("unheard_of", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_a_setting_that_cannot_be_is_named(name: str, value: Any, whole: Path, tmp_path: Path) -> None:
    path = altered(whole / "adapter.safetensors", tmp_path / "a.safetensors", set_field(name, value))
    said = message(lambda: load_adapter(path), path)
    assert name.removeprefix("base.").split("_")[0] in said


SAMPLING = [
    ("steps", 10**9), ("steps", 0), ("steps", "many"), ("shift", float("nan")), ("shift", 0), ("solver", "magic"),
    ("solver", 2), ("history_noise", 2), ("start", 0), ("seed", -1), ("fusion", 3), ("fusion", {"source": None}),
    ("fusion", {"rescale": float("nan")}), ("fusion", {"driving_range": [0.5]}), ("fusion", {"eyes": "wide"}),
    ("fusion", {"driving_range": [0.9, 0.1]}), ("fusion", {"nobody": 1}), ("colour", "red"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SAMPLING)
def test_sampling_that_cannot_be_is_named(name: str, value: Any, whole: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors, header: Header) -> None:
        header["svdp.info"] = json.dumps({"sampling": {name: value}})

    path = altered(whole / "adapter.safetensors", tmp_path / "a.safetensors", change)
    assert name in message(lambda: load_adapter(path), path)


HEADERS = [
    ("svdp.config", "not json"), ("svdp.config", "[" * 100_000), ("svdp.config", "[]"), ("svdp.config", "{}"),
    ("svdp.config", '{"base": {"width": 1' + "0" * 5000 + "}}"), ("svdp.info", "{"), ("svdp.info", "7"),
    ("svdp.info", '{"sampling": [1]}'), ("svdp.info", '{"training": {"settings": {"loss": {"shift": "x"}}}}'),
    ("svdp.format", "two"), ("svdp.format", "-1"), ("svdp.format", "9" * 5000), ("svdp.format", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), HEADERS)
def test_a_header_that_is_not_what_it_should_be(name: str, text: str, whole: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors, header: Header) -> None:
        header[name] = text

    path = altered(whole / "adapter.safetensors", tmp_path / "a.safetensors", change)
    assert name in message(lambda: load_adapter(path), path)


def _change_tensor(rng: random.Random, name: str, tensors: Tensors) -> None:
    tensor = tensors[name]
    kind = rng.choice(("missing", "shape", "integers", "nan", "infinite", "empty", "renamed", "flat"))
    if kind == "missing":
        del tensors[name]
    elif kind == "renamed":
        tensors["\n".join(("un", "known", name))] = tensors.pop(name)
    else:
        tensors[name] = {
            "shape": lambda: torch.zeros(*tensor.shape, 2),
            "integers": lambda: torch.zeros(tensor.shape, dtype=rng.choice((torch.int8, torch.int64, torch.bool))),
            "nan": lambda: torch.full(tensor.shape, float("nan"), dtype=torch.float16),
            "infinite": lambda: torch.full(tensor.shape, -float("inf")),
            "empty": lambda: torch.zeros(0),
            "flat": lambda: tensor.flatten()[:-1].clone(),
        }[kind]()


@pytest.mark.parametrize("part", ["adapter", "base", "autoencoder"])
def test_a_wrong_tensor_is_named(part: str, whole: Path, tmp_path: Path) -> None:
    load: dict[str, Callable[[Path], object]] = {
        "adapter": load_adapter,
        "base": load_transformer,
        "autoencoder": lambda p: load_autoencoder(p, "cpu", torch.float32),
    }
    rng, path = random.Random(part), tmp_path / f"{part}.safetensors"
    names = sorted(n for n in load_file(whole / path.name) if n not in ("vae_scale", "vae_shift"))
    for _ in range(40):
        name = rng.choice(names)
        altered(whole / path.name, path, lambda tensors, _, name=name: _change_tensor(rng, name, tensors))
        said = message(lambda: load[part](path), path)
        assert name.removeprefix("model.diffusion_model.").split(".")[0] in said


def test_a_block_number_beyond_all_bounds_builds_nothing(whole: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors, header: Header) -> None:
        name = next(n for n in tensors if "joint_blocks.2.x_block.attn.qkv.weight" in n)
        tensors[name.replace("joint_blocks.2", "joint_blocks.1000000")] = tensors[name].clone()

    path = altered(whole / "base.safetensors", tmp_path / "b.safetensors", change)
    assert "depth must be a whole number from 1 to 256" in message(lambda: load_transformer(path), path)


@pytest.mark.parametrize("part", ["adapter", "base", "autoencoder"])
def test_damaged_files_never_end_otherwise_than_in_a_line(part: str, whole: Path, tmp_path: Path) -> None:
    load: dict[str, Callable[[Path], object]] = {
        "adapter": load_adapter,
        "base": load_transformer,
        "autoencoder": lambda p: load_autoencoder(p, "cpu", torch.float32),
    }
    rng, path = random.Random(part), tmp_path / f"{part}.safetensors"
    data = (whole / path.name).read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 4))):
            broken[rng.randrange(head)] = rng.randrange(256)
        path.write_bytes(broken[: rng.choice((len(broken), len(broken), rng.randrange(len(broken))))])
        try:
            load[part](path)
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30  # a changed digit of a free text is no fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("lora.transformer_blocks.0.attn.to_q.B.weight"), "without its other half"),
        (lambda t: t.update({"lora.transformer_blocks.0.attn.to_q.B.weight": torch.zeros(32, 3)}), "expected (rank"),
        (lambda t: t.update({"lora.transformer_blocks.0.attn.to_q.A.weight": torch.zeros(2)}), "expected (rank"),
        (lambda t: t.update({"lora.x": torch.zeros(2)}), "lora.x is unknown"),
    ],
)
def test_lora_deltas_that_do_not_fit(
    change: Callable[[Tensors], None], words: str, whole: Path, tmp_path: Path
) -> None:
    path = altered(whole / "adapter.safetensors", tmp_path / "a.safetensors", lambda tensors, _: change(tensors))
    assert words in message(lambda: load_adapter(path), path)


def test_lora_of_another_width_names_layer_and_shapes() -> None:
    stem = "transformer_blocks.0.attn.to_q"
    lora = {f"{stem}.A.weight": torch.zeros(2, 31), f"{stem}.B.weight": torch.zeros(32, 2)}
    with pytest.raises(AdapterMismatchError, match=rf"{stem} is of \(32, 31\), but the base's layer has \(32, 32\)"):
        merge_lora(tiny_denoiser().transformer, lora)
    norm = {"transformer_blocks.0.ff.A.weight": torch.zeros(2, 32), "transformer_blocks.0.ff.B.weight": torch.zeros(32, 2)}  # fmt: skip # noqa: E501
    with pytest.raises(AdapterMismatchError, match="has no weight"):
        merge_lora(tiny_denoiser().transformer, norm)


FOLDERS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("settings that are no text", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not text in UTF-8"),
    ("settings that are no JSON", lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    ("settings that are a list", lambda f: (f / "config.json").write_text("[]"), "must be a table"),
    ("no weights", lambda f: (f / "diffusion_pytorch_model.safetensors").unlink(), "download is not complete"),
    ("half a file", lambda f: _halve(f / "diffusion_pytorch_model.safetensors"), "damaged"),
    ("pickles", lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "m.bin"), "pickled weights only"),
    ("a part missing", lambda f: _index(f, "part-2.safetensors"), "lacks part-2.safetensors"),
    ("a part elsewhere", lambda f: _index(f, "../other.safetensors"), "which is no file name"),
    ("a part that is a number", lambda f: _index(f, 3), "which is no file name"),
    ("a wrong index", lambda f: _index(f, None), "weight_map must be a table"),
]


def _halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _index(folder: Path, name: Any) -> None:
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "part-1.safetensors")
    table = {"a": "part-1.safetensors", "b": name} if name is not None else 5
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


@pytest.mark.parametrize(("what", "change", "words"), FOLDERS)
def test_junk_folders(what: str, change: Callable[[Path], Any], words: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(whole / "model" / "transformer", folder)
    change(folder)
    assert words in message(lambda: load_transformer(folder), folder)


FOLDER_SETTINGS = [
    ("num_layers", 10**6, "num_layers"), ("num_layers", "3", "num_layers"), ("qk_norm", "layer_norm", "qk_norm"),
    ("attention_head_dim", 0, "attention_head_dim"), ("num_attention_heads", None, "num_attention_heads"),
    ("dual_attention_layers", [77], "dual_blocks"), ("patch_size", 3, "pos_embed.proj.weight"),
    ("out_channels", 8, "out_channels"), ("pos_embed_max_size", float("nan"), "pos_embed_max_size"),
    ("_class_name", "FluxTransformer2DModel", "class"), ("caption_projection_dim", 1, "caption_projection_dim"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "named"), FOLDER_SETTINGS)
def test_settings_of_a_folder_that_cannot_be(name: str, value: Any, named: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(whole / "model" / "transformer", folder)
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, name: value}))
    assert named in message(lambda: load_transformer(folder), folder)


def test_a_folder_with_weights_of_something_else(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(whole / "model" / "transformer", folder)
    save_file({"unet.x": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    assert "no SD3-family transformer" in message(lambda: load_transformer(folder), folder)


VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 16, "norm_num_groups": 8, "layers_per_block": 1,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5, "shift_factor": 0.06,
}  # fmt: skip
VAE_SETTINGS = [
    ("block_out_channels", [8, 0]), ("block_out_channels", [8, 9]), ("block_out_channels", 8),
    ("block_out_channels", [8] * 999), ("down_block_types", ["Evil"] * 2), ("up_block_types", None),
    ("layers_per_block", 10**9), ("norm_num_groups", 0), ("scaling_factor", float("nan")), ("scaling_factor", 0),
    ("shift_factor", "1"), ("act_fn", "__import__"), ("in_channels", 4), ("use_quant_conv", 1),
    ("latent_channels", "16"), ("_class_name", ["AutoencoderKL"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), VAE_SETTINGS)
def test_settings_of_an_autoencoder_that_cannot_be(name: str, value: Any, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**VAE, name: value}))
    said = message(lambda: load_autoencoder(folder, "cpu", torch.float32), folder)
    assert ("class" if name == "_class_name" else name) in said


def test_tensors_of_a_folder_s_autoencoder_are_checked(tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder, path = tmp_path / "vae", tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    arguments: dict[str, Any] = {k: v for k, v in VAE.items() if k != "_class_name"}
    AutoencoderKL(**arguments).save_pretrained(folder)
    load_autoencoder(folder, "cpu", torch.float32)
    state, name = load_file(path), "encoder.conv_in.weight"
    for changed in (None, state[name].flatten(), state[name].to(torch.int8), state[name] * float("nan")):
        save_file({k: changed if k == name else v for k, v in state.items() if k != name or changed is not None}, path)
        assert name in message(lambda: load_autoencoder(folder, "cpu", torch.float32), folder)


def test_a_folder_in_parts_loads(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    shutil.copytree(whole / "model" / "transformer", folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    state = load_file(whole / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    names = sorted(state)
    parts = {"p-1.safetensors": names[::2], "p-2.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({n: state[n] for n in own}, folder / file)
    index = {"weight_map": {n: file for file, own in parts.items() for n in own}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_transformer(folder).state_dict()
    assert all(torch.equal(loaded[n], state[n]) for n in names)


def test_no_files_at_all(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for load in (load_adapter, load_transformer, lambda p: load_autoencoder(p, "cpu", torch.float32)):
        assert "does not exist" in message(lambda load=load: load(tmp_path / "gone"), tmp_path / "gone")
        message(lambda load=load: load(tmp_path / "folder"), tmp_path / "folder")


def test_weights_that_half_precision_cannot_hold(whole: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors, header: Header) -> None:
        tensors["roles"] = torch.full_like(tensors["roles"].float(), 1e6)

    path = altered(whole / "adapter.safetensors", tmp_path / "a.safetensors", change)
    assert "roles has numbers that float16 cannot hold" in message(lambda: load_adapter(path, torch.float16), path)
    assert float(load_adapter(path, torch.bfloat16).adapter.roles.detach().max()) == pytest.approx(1e6, rel=0.01)


def test_callers_are_checked_like_files() -> None:
    assert SamplingConfig(steps=3).steps == 3
    for bad in ({"steps": 10**9}, {"steps": True}, {"shift": float("inf")}, {"solver": "magic"}, {"seed": 0.5}):
        with pytest.raises(UserError, match=next(iter(bad))):
            SamplingConfig(**bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="source must be a number from 0 to 100, got nan"):
        FusionConfig(source=float("nan"))
    with pytest.raises(UserError, match="x: base is missing"):
        build(AdapterConfig, {}, "x")
    check_fields(TINY)


def test_the_shift_of_training_counts_unless_the_file_tells_another() -> None:
    trained = {"training": {"settings": {"loss": {"shift": 2.5}}}}
    assert sampling_from_info(trained).shift == 2.5
    assert sampling_from_info({**trained, "sampling": {"shift": 4}}).shift == 4.0
    assert sampling_from_info({"training": None}).shift == SamplingConfig().shift
