"""The few-step training on invented samples: its losses, its checkpoint, its weights."""

from __future__ import annotations

import json
import queue
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from svdp.errors import UserError
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import (
    Denoiser,
    build_transformer,
    load_transformer,
    merge_lora,
    save_transformer,
)
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.training.config import LoraSettings
from svdp.training.data.posed import Kind, PosedDataConfig, PosedSample
from svdp.training.data.store import SamplePool, recoloured
from svdp.training.fewstep import FewStepTrainer, train
from svdp.training.fewstep_config import FewStepConfig
from svdp.training.setup import build_posed_denoiser
from torch import autocast
from torch.nn.utils import parameters_to_vector

SIZE, FRAMES = 32, 4
BASE = BaseArchitecture(width=64, depth=2, heads=2, table_size=12, context_dim=8, pooled_dim=8)
ADAPTER = AdapterConfig(
    base=BASE, driving="aligned", source="both", aligned="pixels", posed=True, copy_gate=True, gate="open",
    segment_length=2, num_history=1, resolution=SIZE, video_width=32, video_head_dim=16, video_blocks=(1,),
    context_tokens=1,
)  # fmt: skip
CONFIG = FewStepConfig(
    adapter=ADAPTER, steps=1000, clips=2, frames=2, photos=2, photo_share=0.3, eval_every=1e9, adversarial_from=0.05,
    decoder_lr=3e-4,
)  # fmt: skip
# Of the first steps, from step 201 on, as they were before the trainer was split into modules.
LOSSES = {
    "loss": [4.120906, 4.020413, 3.284822, 2.978861],
    "latent": [0.547579, 0.67182, 0.344078, 0.69203],
    "decoded": [1.119328, 1.064185, 0.973167, 0.859314],
    "features": [0.203875, 0.197548, 0.191851, 0.175822],
    "edges": [0.320379, 0.311536, 0.308148, 0.294379],
    "discriminator": [1.995589, 1.592273, 1.069791, 0.619733],
    "generator": [1.349407, 2.172827, 3.539803, 3.383824],
    "scale": [1.001545, 0.581329, 0.223442, 0.156852],
}


def pictures(rng: np.random.Generator, frames: int, channels: int) -> np.ndarray:
    """(T, S, S, C) uint8: soft random colours."""
    small = rng.random((frames, 8, 8, channels))
    large = [cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for frame in small]
    return (np.stack(large).clip(0, 1) * 255).astype(np.uint8)


def invented(seed: int, kind: Kind) -> PosedSample:
    """A sample of random pictures with a mask in the middle."""
    rng, frames = np.random.default_rng(seed), 1 if kind == "photo" else FRAMES
    mask = np.zeros((frames, SIZE, SIZE, 1), np.uint8)
    mask[:, 10:22, 8:24] = 1
    driver = np.concatenate([pictures(rng, frames, 3) * mask, 255 * mask], -1)
    return PosedSample(
        kind, pictures(rng, 1, 3)[0], pictures(rng, frames, 3), pictures(rng, frames, 4), driver
    )  # fmt: skip


SAMPLES = [invented(1, "rendered"), invented(2, "clip"), invented(3, "photo"), invented(4, "photo")]
HELDOUT = [invented(5, "photo"), invented(6, "clip")]


class Delivered:
    """In place of the processes that render: the samples are there already."""

    alive = True

    def __init__(self) -> None:
        self.waiting: queue.Queue[PosedSample] = queue.Queue()
        for sample in SAMPLES:
            self.waiting.put(sample)


@pytest.fixture
def autoencoder() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder()


def pool(autoencoder: TinyAutoencoder) -> SamplePool:
    data = PosedDataConfig(size=SIZE, frames=FRAMES)
    return SamplePool(Delivered(), (2, 2), data, autoencoder, "cpu")  # type: ignore[arg-type]


def test_losses_stay_what_they_were(autoencoder: TinyAutoencoder, tmp_path: Path) -> None:
    samples = pool(autoencoder)
    samples.take(10)
    trainer = FewStepTrainer(CONFIG, autoencoder, samples, HELDOUT, tmp_path)
    trainer.progress.step = 201
    found: dict[str, list[float]] = {}
    for _ in range(4):
        trainer.step()
        for key, value in trainer.means.take().items():
            found.setdefault(key, []).append(value)
    assert found.keys() == LOSSES.keys()
    for key, values in found.items():
        assert values == pytest.approx(LOSSES[key], rel=0.02), key  # bfloat16 differs between processors


def test_a_run_trains_saves_and_resumes(autoencoder: TinyAutoencoder, tmp_path: Path) -> None:
    out, before = tmp_path / "run", None
    for steps, resume in ((2, False), (3, True)):
        folder = train(replace(CONFIG, steps=steps), autoencoder, pool(autoencoder), HELDOUT, out, resume)
        base, file = load_transformer(folder / "base.safetensors"), load_adapter(folder / "adapter.safetensors")
        assert file.adapter.config == ADAPTER and file.info["training"]["step"] == steps
        weights = parameters_to_vector([*base.parameters(), *file.adapter.parameters()])
        assert torch.isfinite(weights).all() and (before is None or not torch.equal(weights, before))
        before = weights
    assert file.info["training"]["samples"] == 8  # four of each part
    started = build_posed_denoiser(replace(CONFIG, start=str(folder)))
    assert torch.equal(parameters_to_vector(started.parameters()), weights)
    assert not any(p.any() for n, p in base.named_parameters() if "add_k_proj" in n)  # the text stream stays zero
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["photo/1"]) and np.isfinite(line["photo/draft"]) for line in lines)
    assert {p.name for p in (out / "samples").iterdir()} == {"photo.jpg", "clip.jpg"}
    with pytest.raises(UserError, match="holds a run already"):
        train(CONFIG, autoencoder, pool(autoencoder), HELDOUT, out)
    with pytest.raises(UserError, match="holds no run"):
        train(CONFIG, autoencoder, pool(autoencoder), HELDOUT, tmp_path / "other", resume=True)


def test_a_frozen_base_is_trained_with_lora_and_gates_that_open(autoencoder: TinyAutoencoder, tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = tmp_path / "big.safetensors"
    save_transformer(base, build_transformer(BASE), {}, torch.float32)
    settings: dict = {"base": str(base), "lora": LoraSettings(rank=4), "gate_steps": 3, "gradient_checkpointing": True}
    adapter = replace(ADAPTER, gate="learned")
    config = replace(CONFIG, adapter=adapter, decoder_lr=0.0, branches=(0.0, 0.0, 1.0), **settings)
    samples = pool(autoencoder)
    samples.take(10)
    trainer = FewStepTrainer(config, autoencoder, samples, HELDOUT, tmp_path / "run")
    frozen = {k: p.clone() for k, p in trainer.denoiser.transformer.named_parameters() if "lora_" not in k}
    gates = []
    for _ in range(5):
        trainer.step()
        gates.append(float(trainer.denoiser.adapter.condition_gate[0]))
    assert gates == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    now = dict(trainer.denoiser.transformer.named_parameters())
    assert all(torch.equal(now[k], p) for k, p in frozen.items())
    trainer.save()
    assert not (tmp_path / "run" / "weights" / "base.safetensors").exists()
    file = load_adapter(tmp_path / "run" / "weights" / "adapter.safetensors")
    assert file.adapter.config == replace(adapter, gate="open")
    assert file.lora and all(("add_" not in k and "context" not in k) for k in file.lora)
    assert any(bool(v.any()) for k, v in file.lora.items() if k.endswith("B.weight"))

    plain = Denoiser(load_transformer(base), file.adapter)
    merge_lora(plain.transformer, file.lora, 1.0)
    batch = trainer.heldout[0][1]
    noise, ones = torch.randn_like(batch.target), torch.ones(len(batch.target))
    conditions = batch.conditions()
    with torch.no_grad(), trainer.ema.applied(), autocast("cpu", torch.bfloat16):
        own = trainer.denoiser(noise, ones, conditions=conditions, branch="d")
        exported = plain(noise, ones, conditions=conditions, branch="d")
    assert (own - exported).abs().max() < 0.05 * own.abs().max()  # float16 weights, bfloat16 base


def test_drivers_of_other_colours_keep_black_and_mask() -> None:
    torch.manual_seed(0)
    driver = torch.rand(2, 3, 4, 8, 8)
    driver[..., :4] *= torch.tensor([0, 0, 0, 1.0])[:, None, None]
    changed = recoloured(driver, grey_share=1.0)
    assert torch.equal(changed[:, :, 3], driver[:, :, 3])
    assert not changed[:, :, :3, :, :4].any() and changed[:, :, :3, :, 4:].any()
    grey = changed[:, :, :3, :, 4:]
    shares = grey / grey.sum(2, keepdim=True)  # one colour for all: gains on a grey picture
    torch.testing.assert_close(shares, shares[:, :1, :, :1, :1].expand_as(shares), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0, "minutes": 0.0}, "budget"),
        ({"clips": 0}, "at least 1"),
        ({"level_shares": (0.5,)}, "level_shares"),
        ({"lora": LoraSettings(rank=4)}, "needs a base"),
        ({"adapter": replace(ADAPTER, posed=False, copy_gate=False)}, "draft_share"),
        ({"branches": (0.5, 0.5, 0.5)}, "shares of u, s and d"),
    ],
)
def test_nonsense_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **change)
