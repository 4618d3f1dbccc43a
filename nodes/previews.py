"""What is shown while a node samples: a picture by the bundled tiny autoencoder, whatever VAE is connected."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from torch import Tensor

from ..model.autoencoder import TinyAutoencoder
from .folders import bundled

Preview = tuple[str, Any, int]  # format, PIL picture, largest side: as ComfyUI's progress bar takes it


class TinyPreviewer(latent_preview.LatentPreviewer):
    """Decodes one frame of the latents, wherever they are."""

    def decode_latent_to_preview(self, x0: Tensor) -> Any:
        """The first of latents (F, 16, h, w), as the transformer has them, as a PIL picture."""
        decoder = _autoencoder(x0.device)
        with torch.no_grad():
            picture = decoder.decode(x0[:1].to(torch.float32))[0]
        return latent_preview.preview_to_image(picture.movedim(0, -1), do_scale=False)


@cache
def _autoencoder(device: torch.device) -> TinyAutoencoder:
    return TinyAutoencoder.load(bundled("vae")).to(device)


def find_previewer(model: Any) -> Any:
    """What makes previews of MODEL's latents: ours, or the coarse colours if those were chosen; None if off."""
    if args.preview_method in (LatentPreviewMethod.NoPreviews, LatentPreviewMethod.Latent2RGB):
        return latent_preview.get_previewer(model.load_device, model.model.latent_format)
    return TinyPreviewer()


def preview_of(picture: np.ndarray) -> Preview | None:
    """A finished picture (H, W, 3) uint8 as a preview; None if previews are off."""
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return None
    shown = latent_preview.preview_to_image(torch.from_numpy(picture).float() / 255, do_scale=False)
    return "JPEG", shown, latent_preview.MAX_PREVIEW_RESOLUTION


def sampling_callback(model: Any) -> Callable[[int, Tensor, Tensor, int], None]:
    """A node's progress bar with previews, to call after every step as ComfyUI's samplers do."""
    previewer, bar = find_previewer(model), comfy.utils.ProgressBar(1)

    def on_step(done: int, x0: Tensor, x: Tensor, total: int) -> None:
        preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
        bar.update_absolute(done + 1, total, preview)

    return on_step
