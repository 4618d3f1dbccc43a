"""The autoencoder: TAESD's names and shapes, files, sizes; the teacher itself where it is at hand."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from svdp.errors import UserError
from svdp.model.autoencoder import SD3_SCALE, SD3_SHIFT, TinyAutoencoder, UpsampledConv

# TAESD's modules by index: convolutions with bias, without, and blocks (see madebyollin/taesd).
ENCODER_CONVS, ENCODER_PLAIN, ENCODER_BLOCKS = (0, 14), (2, 6, 10), (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
DECODER_CONVS, DECODER_PLAIN, DECODER_BLOCKS = (1, 19), (7, 12, 17), (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)


def taesd_keys(prefix: str, convs: tuple[int, ...], plain: tuple[int, ...], blocks: tuple[int, ...]) -> set[str]:
    keys = {f"{prefix}.{i}.{kind}" for i in convs for kind in ("weight", "bias")}
    keys |= {f"{prefix}.{i}.weight" for i in plain}
    return keys | {f"{prefix}.{i}.conv.{j}.{kind}" for i in blocks for j in (0, 2, 4) for kind in ("weight", "bias")}


@pytest.fixture
def model() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder().requires_grad_(False)


def test_weights_have_the_names_of_taesd(model):
    wanted = taesd_keys("taesd_encoder", ENCODER_CONVS, ENCODER_PLAIN, ENCODER_BLOCKS)
    wanted |= taesd_keys("taesd_decoder", DECODER_CONVS, DECODER_PLAIN, DECODER_BLOCKS)
    assert set(model.state_dict()) == wanted


def test_weights_have_the_shapes_of_taesd(model):
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes["taesd_encoder.0.weight"] == (64, 3, 3, 3)
    assert shapes["taesd_encoder.14.weight"] == (16, 64, 3, 3)
    assert shapes["taesd_decoder.1.weight"] == (64, 16, 3, 3)
    assert shapes["taesd_decoder.19.weight"] == (3, 64, 3, 3)
    inner = {s for k, s in shapes.items() if ".conv." in k and k.endswith("weight")}
    assert inner == {(64, 64, 3, 3)}


@pytest.mark.parametrize("height, width", [(8, 8), (64, 40)])
def test_encode_and_decode_shapes(model, height, width):
    latents = model.encode(torch.rand(2, 3, height, width))
    assert latents.shape == (2, 16, height // 8, width // 8)
    assert model.decode(latents).shape == (2, 3, height, width)


def test_decoded_pictures_stay_between_0_and_1(model):
    latents = 50 * torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    for weight in model.taesd_decoder[-1].parameters():
        weight.mul_(100)  # so that the raw output leaves the range on both sides
    raw, decoded = model.taesd_decoder(latents), model.decode(latents)
    assert raw.min() < 0 and raw.max() > 1
    assert decoded.min() == 0 and decoded.max() == 1


def test_huge_latents_decode_like_latents_at_the_clamp(model):
    signs = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(2)).sign()
    torch.testing.assert_close(model.decode(1e4 * signs), model.decode(1e6 * signs))


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 1), (1, 3, 0, 8)])
def test_sizes_that_are_not_multiples_of_8_are_refused(model, shape):
    with pytest.raises(UserError, match=rf"multiples of 8, got {shape[2]}x{shape[3]}"):
        model.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64)])
def test_pictures_that_are_not_rgb_batches_are_refused(model, shape):
    with pytest.raises(UserError, match="RGB"):
        model.encode(torch.zeros(shape))


def test_latents_of_another_space_are_refused(model):
    with pytest.raises(UserError, match=r"\(B, 16, h, w\), got \(1, 4, 8, 8\)"):
        model.decode(torch.zeros(1, 4, 8, 8))


def test_saved_file_loads_to_the_same_weights(model, tmp_path):
    model.save(tmp_path / "a.safetensors", {"modelspec.license": "Apache-2.0"})
    loaded = TinyAutoencoder.load(tmp_path / "a.safetensors").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value.half().float()), key
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


def test_saved_file_tells_the_backend_how_to_scale_latents(model, tmp_path):
    model.save(tmp_path / "a.safetensors", {"modelspec.license": "Apache-2.0"})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert float(file.get_tensor("vae_scale")) == pytest.approx(SD3_SCALE, abs=1e-6)
        assert float(file.get_tensor("vae_shift")) == pytest.approx(SD3_SHIFT, abs=1e-6)
        assert file.get_tensor("taesd_decoder.1.weight").dtype == torch.float16
        assert file.metadata()["modelspec.license"] == "Apache-2.0"
        assert file.metadata()["modelspec.architecture"] == "taesd3"


def test_bare_pair_of_files_loads_like_one_file(model, tmp_path):
    for part in ("encoder", "decoder"):
        save_file(getattr(model, f"taesd_{part}").state_dict(), tmp_path / f"{part}.safetensors")
    loaded = TinyAutoencoder.load(tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_wrong_files_are_named(model, tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors does not exist"):
        TinyAutoencoder.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"broken\.safetensors is damaged or not safetensors"):
        TinyAutoencoder.load(tmp_path / "broken.safetensors")
    state = model.state_dict()
    state["taesd_decoder.1.weight"] = torch.zeros(64, 4, 3, 3)
    save_file(state, tmp_path / "sd1.safetensors")
    with pytest.raises(UserError, match=r"taesd_decoder\.1\.weight is \(64, 4, 3, 3\), expected \(64, 16, 3, 3\)"):
        TinyAutoencoder.load(tmp_path / "sd1.safetensors")
    save_file(model.taesd_encoder.state_dict(), tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"missing.*as a pair"):
        TinyAutoencoder.load(tmp_path / "half.safetensors")


@pytest.mark.shared
def test_taesd3_loads_and_rebuilds_a_portrait(shared_dir):
    from PIL import Image

    folder = shared_dir / "models"
    teacher = TinyAutoencoder.load(folder / "taesd3_encoder.safetensors", folder / "taesd3_decoder.safetensors")
    portrait = Image.open(shared_dir / "portraits" / "SadTalker__examples-source_image-art_0.png").convert("RGB")
    picture = torch.from_numpy(np.array(portrait.resize((384, 512)))).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        error = (teacher.decode(teacher.encode(picture)) - picture).square().mean()
    assert -10 * torch.log10(error) >= 30


def test_upsampled_convolution_is_upsampling_then_convolution():
    layer = UpsampledConv()
    x = torch.randn(2, 64, 5, 7, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layer.weight, padding=1)
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-5)


def test_skipped_blocks_are_zero_in_the_file_and_not_computed(tmp_path):
    model = TinyAutoencoder()
    model.skip_blocks(["taesd_decoder.18", "taesd_encoder.1"])
    model.save(tmp_path / "small.safetensors", dtype=torch.float32)
    loaded = TinyAutoencoder.load(tmp_path / "small.safetensors")
    assert loaded.skipped_blocks == ("taesd_encoder.1", "taesd_decoder.18")
    pictures = torch.rand(1, 3, 32, 32)
    latents = loaded.encode(pictures)
    short, shown = loaded.decode(latents), loaded.taesd_decoder[18]
    shown.skipped = False
    torch.testing.assert_close(loaded.decode(latents), short)
    with pytest.raises(UserError, match="no blocks"):
        model.skip_blocks(["taesd_decoder.0"])
