"""Train the bundled model from a pack of faces and clips: the tiny autoencoder, then the posed model.

Runs on a bare machine: PyTorch, NumPy, numba, einops, OpenCV, safetensors and diffusers are enough. Stopped runs go on
with the same command. The pack is made by `scripts/make_pack.py`.

    python scripts/train_bundled.py PACK OUT --device cuda --workers 15 --minutes 11
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def import_package() -> None:
    """Make `svdp` importable from this checkout where it is not installed."""
    try:
        import svdp  # noqa: F401
    except ImportError:
        import importlib.util

        spec = importlib.util.spec_from_file_location(
            "svdp", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["svdp"] = module
        spec.loader.exec_module(module)


import_package()  # here, as the processes that render import this module, too


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=600.0, help="of the model's training")
    parser.add_argument("--autoencoder-minutes", type=float, default=120.0, help="0: the pack's own as it is")
    parser.add_argument("--settings", default="{}", help="JSON that replaces settings of FewStepConfig")
    parser.add_argument("--model", default="{}", help="JSON that replaces width, depth or heads")
    parser.add_argument("--data", default="{}", help="JSON that replaces settings of PosedDataConfig")
    parser.add_argument("--most-faces", type=int, default=10**6)
    parser.add_argument("--most-clips", type=int, default=10**6)
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from dataclasses import replace

    import numpy as np
    import torch
    from svdp.heads.landmarks import TABLE
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.training import autoencoder as ae
    from svdp.training.data.autoencoder_pictures import CropsConfig
    from svdp.training.data.posed import PosedDataConfig, open_head, open_world
    from svdp.training.fewstep import FewStepConfig, Renderers, bundled_adapter, draw_heldout, fit_world, train

    started = time.monotonic()
    data = PosedDataConfig(**json.loads(a.data))
    a.out.mkdir(parents=True, exist_ok=True)
    target = open_head(a.pack / "target_head.npz", TABLE, data)
    posing_table = a.pack / "posing_table.npz"
    posing = open_head(a.pack / "posing_head.npz", posing_table if posing_table.is_file() else TABLE, data)
    adapter = bundled_adapter(data.size, data.crop_scale, **json.loads(a.model))
    settings = {"minutes": a.minutes, "workers": a.workers, "device": a.device} | json.loads(a.settings)
    few = FewStepConfig(adapter=adapter, **settings)
    worlds = []
    for split in ("train", "heldout"):
        world = open_world(a.pack, target, posing, data, split, a.most_clips)
        worlds.append(fit_world(replace(world, faces=world.faces[: a.most_faces]), a.workers))
    heldout = draw_heldout(worlds[1], few)
    renderers = Renderers(worlds[0], a.workers, few.seed + 1 + int(started))
    logging.info("faces fitted and held-out samples drawn after %.0f s", time.monotonic() - started)

    crops = np.stack(
        [face.canvas(384)[32:352, 32:352].round().clip(0, 255).astype(np.uint8) for face in worlds[0].faces]
    )
    np.save(a.out / "crops.npy", crops)
    wide = a.device != "cpu"
    folder = a.out / "autoencoder"
    config = ae.AutoencoderConfig(
        teacher=str(a.pack / "taesd3_encoder.safetensors"), teacher_decoder=str(a.pack / "taesd3_decoder.safetensors"),
        start=str(a.pack / "autoencoder_start.safetensors"), crops_file=str(a.out / "crops.npy"),
        crops=CropsConfig(size=320), crop=256 if wide else 128, batch=48 if wide else 8, steps=10**6 if wide else 6000,
        seconds=60 * a.autoencoder_minutes, lr=6e-4, muon_lr=8e-3, own_latents=(0.0, 0.3), blackout=0.03, ema=0.997,
        warmup=50, log_every=100, save_every=2000, device=a.device, metadata={"modelspec.license": "Apache-2.0"},
        skipped_blocks=tuple("taesd_" + b for b in ("encoder.1", "encoder.4", "encoder.5", "decoder.15", "decoder.18")),
    )  # fmt: skip
    weights = folder / ae.WEIGHTS
    if not a.autoencoder_minutes:
        weights = a.pack / "autoencoder_start.safetensors"
    elif not weights.is_file() or ((folder / ae.CHECKPOINT).is_file() and not (folder / "done").is_file()):
        ae.train(config, folder, resume=(folder / ae.CHECKPOINT).is_file())
        (folder / "done").touch()
    logging.info("autoencoder after %.0f s", time.monotonic() - started)

    torch.backends.cudnn.benchmark = False  # batches differ in size
    torch.set_float32_matmul_precision("high")
    resume = (a.out / "checkpoint.pt").is_file()
    train(few, TinyAutoencoder.load(weights), renderers, heldout, a.out, resume)
    logging.info("done after %.0f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
