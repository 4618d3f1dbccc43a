"""Nodes around the model: load and apply an adapter, encode signals, guide and sample."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)

from fnmatch import fnmatch

import folder_paths
from comfy_api.latest import io, ui

from .folders import ASSETS, BUNDLED, KEY
from .types import CATEGORY, AdapterType, SignalsType

_OWN = -1.0  # a weight or number that the adapter file decides


def adapter_names() -> list[str]:
    """Files that may be adapters: those in models/svdp, and of the bundled files the adapter alone."""
    names = folder_paths.get_filename_list(KEY)
    return [n for n in names if fnmatch(n, BUNDLED[KEY]) or not (ASSETS / n).is_file()]


def _weight(name: str, what: str, paper: float) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=_OWN,
        min=-1.0,
        max=10.0,
        step=0.05,
        round=0.001,
        tooltip=f"{what} -1: the adapter's own value (the paper's is {paper:g}).",
    )


def range_input(name: str, what: str, default: float) -> io.Float.Input:
    """When a signal counts."""
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        advanced=True,
        tooltip=f"{what}, as a fraction of the schedule: 0 is its beginning, 1 its end.",
    )


def region_input(name: str) -> io.Float.Input:
    """How strongly a region of the driver counts."""
    return io.Float.Input(
        name,
        default=1.0,
        min=0.0,
        max=3.0,
        step=0.05,
        advanced=True,
        tooltip=f"Strength of the driver in the {name}: 0 leaves it to the rest, above 1 exaggerates. Needs this "
        "region's own mask at Encode Signals.",
    )


class SVDPLoadAdapter(io.ComfyNode):
    """Read an adapter file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPLoadAdapter",
            display_name="Load Adapter (SVDP)",
            category=CATEGORY,
            description="Reads an SVDP adapter from models/svdp, or the bundled small one. An adapter fits the base "
            "model that it was trained on.",
            search_aliases=["svdp", "portrait animation model", "load svdp", "video driven portrait"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_names(),
                    tooltip="A file in models/svdp. mini_adapter is bundled and belongs to the checkpoint mini_base.",
                )
            ],
            outputs=[
                AdapterType.Output("adapter", display_name="adapter", tooltip="For Apply Adapter."),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="What it is and how to sample with it: base, form, segment length, steps, weights.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name):
        if adapter_name is None or adapter_name in adapter_names():
            return True
        return (
            f"{adapter_name} is not in models/svdp: put the file there and press R, or try the pack without it, with "
            "mini_adapter and the Bundled Model"
        )

    @classmethod
    def fingerprint_inputs(cls, adapter_name):
        from pathlib import Path

        status = Path(folder_paths.get_full_path_or_raise(KEY, adapter_name)).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        from ..model.backends.comfy import load_adapter

        path = folder_paths.get_full_path_or_raise(KEY, adapter_name)
        adapter = load_adapter(path, adapter_name)
        return io.NodeOutput(adapter, adapter.describe())


class SVDPApply(io.ComfyNode):
    """Put an adapter on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPApply",
            display_name="Apply Adapter (SVDP)",
            category=CATEGORY,
            description="Gives a Stable Diffusion 3.5 model attention over all frames of a video, and the ear for the "
            "signals of Signal Fusion. Works before or after LoRA loaders; ControlNets go into the conditioning.",
            search_aliases=["svdp", "apply svdp", "portrait adapter", "full video attention", "animate portrait"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 3 or 3.5 model that the adapter was made for."),
                AdapterType.Input("adapter", tooltip="From Load Adapter."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much of the adapter is used. At 0 the model is exactly as it was.",
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Sigma shift of the schedule. 0: the adapter's own, else the model's. Connect the "
                    "scheduler to this node's model, so that it uses it too.",
                ),
            ],
            outputs=[io.Model.Output("applied", display_name="model", tooltip="For Signal Fusion and the scheduler.")],
        )

    @classmethod
    def execute(cls, model, adapter, strength, shift) -> io.NodeOutput:
        from ..model.backends.comfy import apply_adapter

        return io.NodeOutput(apply_adapter(model, adapter, strength, shift or adapter.sampling.get("shift")))


class SVDPEncodeSignals(io.ComfyNode):
    """Pictures to latents."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPEncodeSignals",
            display_name="Encode Signals (SVDP)",
            category=CATEGORY,
            description="Encodes the portrait and the masked driving frames, and keeps where each region is. All "
            "pictures are of one size, a multiple of 16.",
            search_aliases=["svdp", "vae encode portrait", "driving signal", "motion signal"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of Stable Diffusion 3 or 3.5, or the bundled mini_autoencoder."),
                io.Image.Input("source", tooltip="The portrait: one picture, usually from its Face Crop."),
                io.Image.Input("masked", tooltip="The driver with all but its regions black: from Region Masks."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="All regions together, where the three below are not connected. Without any mask: what is "
                    "not black.",
                ),
                io.Mask.Input("eyes", optional=True, tooltip="Where the eyes are, so that they get a strength."),
                io.Mask.Input("nose", optional=True, tooltip="Where the nose is, so that it gets a strength."),
                io.Mask.Input("mouth", optional=True, tooltip="Where the mouth is, so that it gets a strength."),
                io.Image.Input(
                    "posed",
                    optional=True,
                    tooltip="The portrait in the driver's pose, from Pose Portrait: for adapters that take it; others "
                    "leave it aside.",
                ),
                io.Mask.Input(
                    "known",
                    optional=True,
                    tooltip="What of the posed pictures the portrait shows, from Pose Portrait. Without it: all.",
                ),
            ],
            outputs=[
                SignalsType.Output("signals", display_name="signals", tooltip="For Signal Fusion."),
                io.Latent.Output(
                    "empty",
                    display_name="empty latent",
                    tooltip="Empty latents of the same size and length, for SamplerCustomAdvanced: a clip of one "
                    "segment. The Segmented Sampler does not need them.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, vae, source, masked, mask=None, eyes=None, nose=None, mouth=None, posed=None, known=None
    ) -> io.NodeOutput:
        import torch

        from ..model.backends.comfy_signals import encode_signals

        signals = encode_signals(vae, source, masked, [eyes, nose, mouth], mask, posed=posed, known=known)
        empty = torch.zeros(signals.num_frames, *signals.latent_shape)
        return io.NodeOutput(signals, {"samples": empty})


class SVDPSignalFusion(io.ComfyNode):
    """A guider that weighs the signals."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPSignalFusion",
            display_name="Signal Fusion, as in 0.1 (SVDP)",
            category=CATEGORY,
            is_deprecated=True,
            description="Weighs portrait, driver and history against each other, in place of CFG: nothing + source x "
            "(portrait) + driving x (driver) + history x (frames before). What has no share is not computed.",
            search_aliases=["svdp", "guider", "cfg portrait", "driving strength", "signal weights"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Adapter."),
                SignalsType.Input("signals", tooltip="From Encode Signals."),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Text or a ControlNet, for all parts of the fusion. Without it the adapter's own empty "
                    "prompt is used, and no text encoder is needed.",
                ),
                _weight("source", "Higher: more like the portrait, at last hard and oversaturated.", 2.0),
                _weight("driving", "Higher: follows the driver's expression more, at last its face too.", 2.5),
                _weight("history", "Higher: smoother joins between segments, at last frozen.", 1.0),
                range_input("source_start", "When the portrait begins to count", 0.0),
                range_input("source_end", "When the portrait ceases to count", 1.0),
                range_input("driving_start", "When the driver begins to count", 0.0),
                range_input("driving_end", "When the driver ceases to count", 1.0),
                range_input("history_start", "When the frames before begin to count", 0.0),
                range_input("history_end", "When the frames before cease to count", 1.0),
                region_input("eyes"),
                region_input("nose"),
                region_input("mouth"),
                io.Float.Input(
                    "rescale",
                    default=_OWN,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    tooltip="Takes back the contrast that the weights add: 0 not at all, 1 wholly. -1: the adapter's "
                    "own value (0, if it has none).",
                ),
            ],
            outputs=[
                io.Guider.Output(
                    "guider",
                    display_name="guider",
                    tooltip="For the Segmented Sampler; a clip of one segment also works in SamplerCustomAdvanced.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model, signals, source, driving, history, source_start, source_end, driving_start, driving_end,
        history_start, history_end, eyes, nose, mouth, conditioning=None, rescale=_OWN,
    ) -> io.NodeOutput:  # fmt: skip
        from ..model.backends.comfy import own_fusion
        from ..model.backends.comfy_guider import SVDPGuider
        from ..model.config import FusionConfig

        weights = {"source": source, "driving": driving, "history": history, "rescale": rescale}
        fusion = FusionConfig(
            **own_fusion(model, {name: w for name, w in weights.items() if w >= 0}),
            source_range=(source_start, source_end),
            driving_range=(driving_start, driving_end),
            history_range=(history_start, history_end),
            eyes=eyes,
            nose=nose,
            mouth=mouth,
        )
        return io.NodeOutput(SVDPGuider(model, signals, fusion, conditioning))


class SVDPSegmentedSampler(io.ComfyNode):
    """Sample a video of any length."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPSegmentedSampler",
            display_name="Segmented Sampler, as in 0.1 (SVDP)",
            category=CATEGORY,
            is_deprecated=True,
            description="Samples a video of any length in segments; the last frames of each are given to the next as "
            "history, so that they join. Memory does not grow with the length.",
            search_aliases=["svdp", "long video sampler", "sampler custom advanced", "segments", "history frames"],
            inputs=[
                io.Noise.Input("noise", tooltip="Random Noise: the same seed and frame number give the same noise."),
                io.Guider.Input("guider", tooltip="From Signal Fusion."),
                io.Sampler.Input("sampler", tooltip="Any sampler: euler, or dpmpp_2m for fewer steps."),
                io.Sigmas.Input("sigmas", tooltip="From a scheduler that is connected to Apply Adapter's model."),
                io.Int.Input(
                    "segment_length",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Frames that are made together; shorter takes less memory. 0: as the adapter was trained.",
                ),
                io.Int.Input(
                    "history",
                    default=-1,
                    min=-1,
                    max=64,
                    tooltip="How many frames before a segment are given to it. 0: none, segments may jump. "
                    "-1: as the adapter was trained.",
                ),
                io.Float.Input(
                    "history_noise",
                    default=_OWN,
                    min=-1.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="A little noise on the history keeps errors from growing over a long video. "
                    "-1: the adapter's own value.",
                ),
                io.Latent.Input(
                    "finished",
                    optional=True,
                    tooltip="The first frames of the same video from an earlier run: whole segments of them are kept "
                    "and not made again.",
                ),
                io.Float.Input(
                    "start",
                    default=_OWN,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Noise level at which sampling begins. 1: from noise. Lower: from the posed source, of "
                    "which more stays; needs posed at Encode Signals. -1: the adapter's own value.",
                ),
            ],
            outputs=[
                io.Latent.Output("samples", display_name="latent", tooltip="All frames, for VAE Decode."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Per segment: frames, branches computed, time, and how far its colours have drifted.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, noise, guider, sampler, sigmas, segment_length, history, history_noise, finished=None, start=_OWN
    ) -> io.NodeOutput:
        from ..model.backends.comfy_sampling import sample_video, segment_plan
        from .previews import sampling_callback

        plan = segment_plan(guider, segment_length, history, history_noise, start)
        result = sample_video(
            guider,
            noise,
            sampler,
            sigmas,
            plan.segments,
            plan.history_noise,
            start=plan.start,
            finished=None if finished is None else finished["samples"],
            on_step=sampling_callback(guider.model_patcher),
        )
        text = result.text()
        return io.NodeOutput({"samples": result.latents}, text, ui=ui.PreviewText(text))


NODES = [SVDPLoadAdapter, SVDPApply, SVDPEncodeSignals, SVDPSignalFusion, SVDPSegmentedSampler]
