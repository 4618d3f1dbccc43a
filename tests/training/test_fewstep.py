"""The posed model's training, whole: a pack of the bundled media, samples, a few steps, a resumed run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from svdp.errors import UserError
from svdp.heads.landmarks import BUNDLED_TABLE
from svdp.heads.model import BUNDLED
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import load_transformer
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.training.data.pack import write_pack
from svdp.training.data.posed import PosedDataConfig, make_sample, open_head, open_world
from svdp.training.data.sources import DataConfig, MediaSource
from svdp.training.fewstep import FewStepConfig, Renderers, build_denoiser, draw_heldout, fit_world, train

pytestmark = pytest.mark.slow
SIZE, FRAMES = 64, 4
BASE = BaseArchitecture(width=64, depth=2, heads=2, table_size=12, context_dim=8, pooled_dim=8)
ADAPTER = AdapterConfig(
    base=BASE, driving="aligned", source="both", aligned="pixels", posed=True, copy_gate=True, gate="open",
    segment_length=2, num_history=1, resolution=SIZE, video_width=32, video_head_dim=16, video_blocks=(1,),
    context_tokens=1,
)  # fmt: skip
CONFIG = FewStepConfig(
    adapter=ADAPTER, max_steps=2, clips=1, frames=2, photos=2, photo_share=0.5, capacity=2, heldout=2, eval_every=1e9,
    adversarial_from=0.2, decoder_lr=3e-4, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(assets_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    media = MediaSource(
        root="bundled", origin="this project", licence="MIT", portraits=("source*.jpg",), clips=("driving.mp4",)
    )
    roots = {"bundled": str(assets_dir / "examples")}
    counts = write_pack(DataConfig(autoencoder="", media=(media,), roots=roots, size=SIZE, crop_scale=1.4), folder)
    assert counts == {"faces": 2, "clips": 1}
    config = PosedDataConfig(size=SIZE, frames=FRAMES)
    head = open_head(BUNDLED, BUNDLED_TABLE, config)
    return fit_world(open_world(folder, head, head, config), 1)


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


def test_a_run_trains_saves_and_resumes(world, tmp_path):
    heldout = draw_heldout(world, CONFIG)
    before = None
    for steps, resume in ((2, False), (3, True)):
        renderers = Renderers(world, 1, 5)
        config = replace(CONFIG, max_steps=steps)
        folder = train(config, TinyAutoencoder(), renderers, heldout, tmp_path / "run", resume)
        base, file = load_transformer(folder / "base.safetensors"), load_adapter(folder / "adapter.safetensors")
        assert file.adapter.config == ADAPTER
        weights = torch.cat([p.flatten() for p in (*base.parameters(), *file.adapter.parameters())])
        assert torch.isfinite(weights).all() and (before is None or not torch.equal(weights, before))
        before = weights
    started = build_denoiser(replace(CONFIG, start=str(folder)))
    assert torch.equal(torch.cat([p.flatten() for p in started.parameters()]).half(), before.half())
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["photo/1"]) and np.isfinite(line["photo/draft"]) for line in lines)
    assert not any(p.any() for n, p in base.named_parameters() if "add_k_proj" in n)  # the text stream stays zero
    with pytest.raises(UserError, match="holds a run already"):
        train(CONFIG, TinyAutoencoder(), renderers, heldout, tmp_path / "run")
