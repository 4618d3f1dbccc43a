"""Clips and portraits as people bring them, through Animate Portrait with the bundled model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from svdp.errors import AdapterMismatchError, NoFaceError
from svdp.signals.video import VideoReader
from torch import Tensor

from .test_animate import animate, media, nothing_kept

__all__ = ["media", "nothing_kept"]  # fixtures
QUICK = {"max_frames": 0, "sampling": {"sampling": "chosen", "steps": 1}}


def clip(images: Tensor, fps: int = 25) -> Any:
    """A VIDEO in memory, as other nodes make it."""
    from comfy_api.latest import InputImpl, Types

    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(fps)))


def resized(images: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(images.movedim(-1, 1), (height, width), mode="bilinear").movedim(1, -1)


def on_canvas(images: Tensor, height: int, width: int, top: int, left: int) -> Tensor:
    """Grey pictures of this size with `images` in them."""
    canvas = torch.full((len(images), height, width, 3), 0.4)
    canvas[:, top : top + images.shape[1], left : left + images.shape[2]] = images
    return canvas


@pytest.mark.parametrize("mode", ["model", "draft"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_video_of_one_and_of_two_frames(media, count, mode):
    portrait, driving = media
    frames = driving.get_components().images
    video, images, *_ = animate(portrait, clip(frames[20 : 20 + count]), mode=mode, **QUICK)
    assert len(images) == count and len(video.get_components().images) == count
    still = animate(portrait, clip(frames[:count]), mode=mode, **QUICK)[1]
    assert float((images - still).abs().mean()) > 0.002, "the frames chosen drive"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_video_of_200_frames(media):
    """The bundled clip forth and back: frames that the driver repeats are repeated, nothing drifts off."""
    portrait, driving = media
    frames = driving.get_components().images
    there_and_back = torch.cat([frames, frames[1:-1].flip(0)])
    long = torch.cat([there_and_back, there_and_back])[:200]
    _, images, _, _, report = animate(portrait, clip(long), **QUICK)
    assert len(images) == 200 and "200 frames of 320x320 pixels, the face seen in 200" in report
    period = len(there_and_back)
    again, other = (images[period:] - images[: 200 - period]).abs().mean(), (images[20] - images[60]).abs().mean()
    assert float(again) < 0.5 * float(other)


def test_a_portrait_and_a_phone_clip_of_1080_by_1920(media):
    portrait, driving = media
    tall = on_canvas(resized(portrait, 900, 900), 1920, 1080, 310, 81)
    phone = on_canvas(resized(driving.get_components().images[:4], 800, 800), 1920, 1080, 500, 140)
    video, images, mask, *_ = animate(tall, clip(phone), paste_back=True, **QUICK)
    assert images.shape == (4, 1920, 1080, 3) and mask.shape == (4, 1920, 1080)
    reader = VideoReader(video.get_stream_source())
    assert (reader.info.width, reader.info.height, reader.num_frames) == (1080, 1920, 4)
    assert torch.equal(images[:, :200], (tall[:, :200] * 255).round().expand(4, -1, -1, -1) / 255), "the rest is kept"
    rows, columns = torch.nonzero(mask[0] > 0.5).T
    assert 310 < float(rows.float().mean()) < 1210 and 81 < float(columns.float().mean()) < 981


@pytest.mark.parametrize("sides", [(401, 333), (400, 333), (399, 400)])
def test_an_odd_picture_keeps_its_size_as_images(media, sides):
    portrait, driving = media
    odd = resized(portrait, 400, 400)[:, :, : sides[1]]
    odd = torch.cat([odd, odd[:, -1:]], 1)[:, : sides[0]]
    video, images, mask, *_ = animate(odd, driving, mode="draft", paste_back=True, max_frames=2)
    assert images.shape == (2, *sides, 3) and mask.shape == (2, *sides)
    assert video.get_dimensions() == (sides[1] + sides[1] % 2, sides[0] + sides[0] % 2), "H.264 takes even sides alone"


def test_transparency_of_a_portrait_is_dropped(media):
    portrait, driving = media
    transparent = torch.cat([portrait, torch.rand_like(portrait[..., :1])], -1)
    plain, same = (animate(p, driving, mode="draft", max_frames=2)[1] for p in (portrait, transparent))
    assert same.shape[-1] == 3 and torch.equal(same, plain)


@pytest.mark.parametrize("mode", ["model", "draft"])
def test_without_a_face_the_error_says_where_and_what_to_do(media, mode):
    portrait, driving = media
    noise = torch.rand(1, 300, 200, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NoFaceError, match="in the picture of 200x300 pixels; use"):
        animate(noise, driving, mode=mode, **QUICK)
    with pytest.raises(NoFaceError, match="in any of 3 frames of 200x300 pixels"):
        animate(portrait, clip(noise.expand(3, -1, -1, -1)), mode=mode, **QUICK)


def test_a_clip_that_shows_a_face_only_at_times(media):
    portrait, driving = media
    frames = driving.get_components().images[:8].clone()
    frames[3:5] = 0.5
    _, images, _, _, report = animate(portrait, clip(frames), mode="draft", **QUICK)
    assert "interpolated: 3-4" in report
    steps = (images[1:] - images[:-1]).abs().mean((1, 2, 3))
    assert float(steps[2:5].max()) < 3 * float(np.median(steps[[0, 1, 5, 6]])) + 0.01, "the face does not jump"


def test_another_family_of_models_is_refused_by_name_before_the_clip_is_read(media, adapter_path, bundled_file):
    """In the node that does all, where model, adapter and VAE are connected."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.utils
    from svdp.model.backends.comfy import load_adapter

    config = comfy.supported_models.SD15(
        {
            "context_dim": 16, "model_channels": 32, "use_linear_in_transformer": False, "adm_in_channels": None,
            "in_channels": 4, "out_channels": 4, "num_res_blocks": [1], "channel_mult": [1], "num_heads": 1,
            "transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1,
            "use_temporal_attention": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False,
        }
    )  # fmt: skip
    other = comfy.model_patcher.ModelPatcher(comfy.model_base.BaseModel(config, device="cpu"), "cpu", "cpu")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(bundled_file("mini_autoencoder.safetensors"))))
    connected = {"model": other, "adapter": load_adapter(str(adapter_path), adapter_path.name), "vae": vae}
    faceless = clip(torch.zeros(2, 64, 64, 3))  # would be refused too, were it looked at
    with pytest.raises(AdapterMismatchError, match=r"Stable Diffusion 3 .* family BaseModel"):
        animate(media[0], faceless, **connected, **QUICK)
