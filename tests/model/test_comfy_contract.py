"""Our hooks against a stand-in for ComfyUI that honours its contract: runs everywhere, in place of nothing.

The tests on the real ComfyUI are in tests/comfy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.fusion import BRANCHES
from svdp.model.streams import Conditions
from torch import Tensor
from torch.nn import Linear

from . import comfy_double as double
from .conftest import FRAMES, tiny_denoiser

SIGMA = 0.7
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend's module."""
    return double.backend_module(monkeypatch)


def rows_of(branch: Any, frames: int) -> Tensor:
    """Branch and frame of every row, as the guider gives them."""
    return torch.stack([torch.full((frames,), BRANCHES.index(branch)), torch.arange(frames)], 1)


def applied(comfy: Any, denoiser: Any, strength: float = 1.0, model: Any = None) -> Any:
    adapter = comfy.LoadedAdapter("a", double.ModelPatcher(denoiser.adapter), denoiser.adapter.config)
    return comfy.apply_adapter(model or double.model_of(denoiser.transformer), adapter, strength)


def forward(
    comfy: Any, patcher: Any, z: Tensor, conditions: Conditions, branches: Any, patches: Any = None
) -> dict[str, Tensor]:
    """One batch of the given branches."""
    adapter = comfy.adapter_of(patcher)
    count = len(branches) * FRAMES
    options = {
        "cond_or_uncond": list(range(len(branches))),
        "uuids": list(branches),
        "svdp": comfy.SegmentState(conditions),
        "patches_replace": {"dit": patches or {}},
    }
    with torch.no_grad():
        out = double.run(
            patcher,
            z[0].repeat(len(branches), 1, 1, 1),
            SIGMA,
            options,
            context=adapter.context.expand(count, -1, -1),
            y=adapter.pooled.expand(count, -1),
            svdp_rows=torch.cat([rows_of(b, FRAMES) for b in branches]),
        )
    assert options["patches_replace"]["dit"] == (patches or {})  # what was given is not written to
    return dict(zip(branches, out.split(FRAMES), strict=True))


def test_every_branch_equals_the_diffusers_backend(comfy, conditioning, noisy, conditions):
    d = tiny_denoiser(conditioning=conditioning)
    ours = forward(comfy, applied(comfy, d), noisy, conditions, BRANCHES)
    for branch in BRANCHES:
        with torch.no_grad():
            theirs = d(noisy, torch.tensor([SIGMA]), conditions, branch=branch)[0]
        torch.testing.assert_close(ours[branch], theirs, **CLOSE)


def test_branches_apart_and_in_any_order_are_the_same(comfy, conditioning, noisy, conditions):
    patcher = applied(comfy, tiny_denoiser(conditioning=conditioning))
    together = forward(comfy, patcher, noisy, conditions, BRANCHES)
    for branches in (("p", "u"), ("d",), ("s",)):
        for branch, out in forward(comfy, patcher, noisy, conditions, branches).items():
            torch.testing.assert_close(out, together[branch], **CLOSE)


def test_strength_zero_is_the_base(comfy, noisy, conditions):
    d = tiny_denoiser()
    ours = forward(comfy, applied(comfy, d, 0.0), noisy, conditions, ("d",))["d"]
    d.strength = 0.0
    with torch.no_grad():
        torch.testing.assert_close(ours, d(noisy, torch.tensor([SIGMA]), conditions)[0], **CLOSE)


def test_another_owner_sees_n_tokens_and_our_block_as_the_original(comfy, conditioning, noisy, conditions):
    seen = []

    def owner(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(tuple(args["img"].shape[:2]))
        out = extra["original_block"](args)
        seen.append(tuple(out["img"].shape[:2]))
        return out

    patcher = applied(comfy, tiny_denoiser(conditioning=conditioning))
    plain = forward(comfy, patcher, noisy, conditions, ("s", "p"))
    owned = forward(comfy, patcher, noisy, conditions, ("s", "p"), {("double_block", i): owner for i in range(3)})
    assert set(seen) == {(2 * FRAMES, 16)} and len(seen) == 6
    for branch, out in owned.items():
        torch.testing.assert_close(out, plain[branch], **CLOSE)


def test_an_owner_may_skip_the_block(comfy, conditioning, noisy, conditions):
    patcher = applied(comfy, tiny_denoiser(conditioning=conditioning))
    plain = forward(comfy, patcher, noisy, conditions, ("d",))["d"]
    skipped = forward(comfy, patcher, noisy, conditions, ("d",), {("double_block", 1): lambda args, extra: args})["d"]
    assert torch.isfinite(skipped).all()
    assert not torch.allclose(plain, skipped, atol=1e-3)


def test_a_batch_without_signals_is_one_clip_without_conditions(comfy, noisy):
    d = tiny_denoiser()
    patcher, a = applied(comfy, d), d.adapter
    with torch.no_grad():
        out = double.run(
            patcher,
            noisy[0],
            SIGMA,
            {},
            context=a.context.expand(FRAMES, -1, -1),
            y=a.pooled.expand(FRAMES, -1),
        )
        torch.testing.assert_close(out, d(noisy, torch.tensor([SIGMA]), branch="u")[0], **CLOSE)


def test_a_window_of_frames_takes_its_own_signals(comfy, noisy, conditions):
    """Frames 2 and 3 alone, without attention over frames, are what they are in the whole clip."""
    patcher = applied(comfy, tiny_denoiser(video_blocks=()))
    whole = forward(comfy, patcher, noisy, conditions, ("d",))["d"]
    adapter = comfy.adapter_of(patcher)
    with torch.no_grad():
        part = double.run(
            patcher,
            noisy[0, 2:],
            SIGMA,
            {"cond_or_uncond": [0], "svdp": comfy.SegmentState(conditions)},
            context=adapter.context.expand(2, -1, -1),
            y=adapter.pooled.expand(2, -1),
            svdp_rows=rows_of("d", FRAMES)[2:],
        )
    torch.testing.assert_close(part, whole[2:], **CLOSE)


def test_source_streams_are_shared_over_segments(comfy, noisy, conditions):
    patcher = applied(comfy, tiny_denoiser())
    backend = comfy.ComfyBackend(patcher.model.diffusion_model, {})
    first, sources = comfy.SegmentState(conditions, {}), {}
    first.sources = sources
    device = torch.device("cpu")
    with torch.no_grad():
        a = first.streams(backend, comfy.adapter_of(patcher), device, torch.float32)
        b = comfy.SegmentState(conditions, sources).streams(backend, comfy.adapter_of(patcher), device, torch.float32)
    assert a.source is b.source and a.driving is not b.driving
    assert first.streams(backend, comfy.adapter_of(patcher), device, torch.float32) is a


def test_refusals(comfy, noisy, conditions):
    d = tiny_denoiser()
    patcher = applied(comfy, d)
    with pytest.raises(UserError, match="already"):
        applied(comfy, d, model=patcher)
    other = tiny_denoiser()
    other.adapter.config = replace(d.adapter.config, base=replace(d.adapter.config.base, width=64))
    with pytest.raises(AdapterMismatchError, match=r"width 64.*width 32"):
        applied(comfy, other)
    patcher.model.diffusion_model = Linear(1, 1)
    patcher.attachments.clear()
    with pytest.raises(AdapterMismatchError, match="family SimpleNamespace"):
        applied(comfy, d, model=patcher)
    with pytest.raises(UserError, match="Apply Adapter"):
        comfy.applied_to(patcher)
    with pytest.raises(UserError, match="8 x 8"):
        comfy.SegmentState(conditions).check_size(torch.zeros(1, 4, 6, 8))
