"""ComfyUI backend, guider: fuses up to four branches in one batch, for any of ComfyUI's samplers."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...errors import UserError
from ..config import FusionConfig
from ..fusion import BRANCHES, Branch, by_signals, driving_map, fuse, fusion_coefficients, rescale_contrast
from ..sampling import segment_conditions
from ..streams import Streams
from .comfy import KEY, adapter_of, applied_to
from .comfy_blocks import ComfyBackend
from .comfy_forward import ROWS, SegmentState, branch_rows
from .comfy_signals import VideoSignals

log = logging.getLogger(__name__)

_DEFAULT_SHIFT = 3.0  # of SD3, where the model's sampling has none
_WITHOUT_EFFECT = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_calc_cond_batch_function")


class SVDPGuider(comfy.samplers.CFGGuider):
    """Four-branch signal fusion (paper) as a ComfyUI GUIDER; branches with coefficient 0 are not computed.

    Args: a MODEL with an adapter applied; the signals of the frames that will be sampled; fusion weights; CONDITIONING
    for all branches (None: the adapter's own empty prompt); history (H, C, h, w) of frames before, as the VAE has them
    but noise already added; `sources` shares the source's streams between guiders of one run.
    Raises `UserError` if no adapter is applied.
    """

    def __init__(
        self,
        model_patcher: Any,
        signals: VideoSignals,
        fusion: FusionConfig,
        conditioning: Any = None,
        history: Tensor | None = None,
        sources: dict[Any, Streams] | None = None,
    ) -> None:
        super().__init__(model_patcher)
        self.applied = applied_to(model_patcher)
        self.signals, self.fusion, self.conditioning = signals, fusion, conditioning
        self.history, self.sources = history, sources
        self.strength_map = driving_map(signals.masks, fusion)
        self.branches: tuple[Branch, ...] = ()  # that were computed in the last run
        self._state: SegmentState | None = None
        names = BRANCHES if history is not None else BRANCHES[:3]
        self.inner_set_conds({b: self._branch_conditioning(b) for b in names})

    def for_frames(
        self, start: int, stop: int, history: Tensor | None, sources: dict[Any, Streams] | None
    ) -> SVDPGuider:
        """A guider of its own for frames [start, stop) of the signals."""
        return SVDPGuider(
            self.model_patcher, self.signals.take(start, stop), self.fusion, self.conditioning, history, sources
        )

    def encoded(self, from_posed: bool = False) -> SVDPGuider:
        """The same with all latents that the adapter needs of its signals; `from_posed`: of the posed source too."""
        signals = self.signals.encoded(self.applied.config, from_posed)
        return SVDPGuider(self.model_patcher, signals, self.fusion, self.conditioning, self.history, self.sources)

    def _branch_conditioning(self, branch: Branch) -> list[Any]:
        rows = comfy.conds.CONDRegular(branch_rows(branch, self.signals.num_frames))
        entries = self.conditioning
        if entries is None:
            adapter = adapter_of(self.model_patcher)
            context, pooled = (t.detach().to("cpu", copy=True)[None] for t in (adapter.context, adapter.pooled))
            entries = [[context, {"pooled_output": pooled}]]
        return [[c, {**d, "model_conds": {**d.get("model_conds", {}), ROWS: rows}}] for c, d in entries]

    def sample(self, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As ComfyUI calls it; streams live as long as the call. Raises `UserError` if the latents do not fit."""
        self._check_latents(latent_image)
        self.signals = self.signals.encoded(self.applied.config)
        self._warn()
        self.branches, self._state = (), SegmentState(self._conditions(), self.sources)
        try:
            return super().sample(noise, latent_image, *args, **kwargs)
        finally:
            self._state = None

    def _warn(self) -> None:
        trained, frames = self.applied.config.segment_length, self.signals.num_frames
        if frames > trained:
            log.warning("%d frames are sampled at once, the adapter was trained on %d", frames, trained)
        for name in _WITHOUT_EFFECT:
            if name in self.model_options:
                log.warning("%s of another node has no effect: Signal Fusion stands in place of CFG", name)

    def _check_latents(self, latents: Tensor) -> None:
        want = (self.signals.num_frames, *self.signals.latent_shape)
        if tuple(latents.shape) != want:
            raise UserError(
                f"the latents to sample are {tuple(latents.shape)}, but the signals are {want} "
                "(frames, channels, height, width): give the empty latents that Encode Signals puts out, or use the "
                "Segmented Sampler"
            )

    def _conditions(self) -> Any:
        scaled = self.model_patcher.model.process_latent_in
        signals = self.signals.for_adapter(self.applied.config, scaled)
        past = scaled(self.history) if self.history is not None else None
        adapter = adapter_of(self.model_patcher)
        return segment_conditions(
            adapter, scaled(self.signals.source), signals, past, self.fusion, "cpu", torch.float32
        )

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """Fused prediction of the clean latents at noise level `timestep`; fusing them is fusing velocities, as the
        coefficients sum to 1."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        options: dict[str, Any] = dict(model_options or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), KEY: self._state}
        sigma = float(timestep.flatten()[0])
        shift = getattr(self.inner_model.model_sampling, "shift", _DEFAULT_SHIFT)
        coefficients = fusion_coefficients(self.fusion, sigma, shift, self.history is not None, self.strength_map)
        names: tuple[Branch, ...] = tuple(coefficients)
        self.branches = tuple(by_signals({*self.branches, *names}))
        self._prefill(x, options)
        conds = [self.conds[b] for b in names]
        outputs = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        denoised = dict(zip(names, outputs, strict=True))
        fused = rescale_contrast(fuse(denoised, coefficients), denoised, self.fusion.rescale)
        return self._after(fused, denoised, x, timestep, options)

    def _prefill(self, x: Tensor, options: dict[str, Any]) -> None:
        """Make the streams before the branches are batched: ComfyUI batches as many as fit what is free then. Where
        conditioning changes weights, they wait for the forward pass, in which it has."""
        if self._state is not None and self.applied.strength and "registered_hooks" not in options:
            backend = ComfyBackend(self.inner_model.diffusion_model, options["transformer_options"])
            dtype = self.inner_model.get_dtype_inference()
            self._state.check_size(x)
            self._state.streams(backend, adapter_of(self.model_patcher), x.device, dtype)

    def _after(
        self, fused: Tensor, denoised: Mapping[Branch, Tensor], x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """What other nodes hung behind guidance (Skip Layer Guidance, say): the richest branch is their positive, the
        poorest their negative."""
        names = by_signals(denoised)
        poor, rich = names[0], names[-1]
        for function in options.get("sampler_post_cfg_function", []):
            fused = function(
                {
                    "denoised": fused,
                    "cond": self.conds[rich],
                    "uncond": self.conds[poor],
                    "cond_scale": self.fusion.source,
                    "model": self.inner_model,
                    "uncond_denoised": denoised[poor],
                    "cond_denoised": denoised[rich],
                    "sigma": sigma,
                    "model_options": options,
                    "input": x,
                }
            )
        return fused
