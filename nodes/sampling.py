"""Weighing the signals, and sampling a video of any length that can be stopped and gone on with."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import io, ui

from .folders import kept_folder, name_problem
from .model import range_input, region_input
from .types import CATEGORY, SignalsType, chosen_fields, name_input, own_or_chosen


def _weight(name: str, default: float, tooltip: str, most: float = 10.0) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.05, round=0.001, tooltip=tooltip)


class SVDPFusion(io.ComfyNode):
    """A guider that weighs the signals."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPFusion",
            display_name="Signal Fusion (SVDP)",
            category=CATEGORY,
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
                own_or_chosen(
                    "weights",
                    "The weights that the adapter's file recommends, or your own (the paper's to begin with).",
                    [
                        _weight("source", 2.0, "Higher: more like the portrait, at last hard and oversaturated."),
                        _weight("driving", 2.5, "Higher: follows the expression more, at last the driver's face too."),
                        _weight("history", 1.0, "Higher: smoother joins between segments, at last frozen."),
                        _weight("rescale", 0.0, "Takes back the contrast that the weights add: 0 none, 1 all.", 1.0),
                    ],
                ),
                range_input("source_start", "When the portrait begins to count", 0.0),
                range_input("source_end", "When the portrait ceases to count", 1.0),
                range_input("driving_start", "When the driver begins to count", 0.0),
                range_input("driving_end", "When the driver ceases to count", 1.0),
                range_input("history_start", "When the frames before begin to count", 0.0),
                range_input("history_end", "When the frames before cease to count", 1.0),
                region_input("eyes"),
                region_input("nose"),
                region_input("mouth"),
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
        cls, model, signals, weights, source_start, source_end, driving_start, driving_end, history_start, history_end,
        eyes, nose, mouth, conditioning=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..model.backends.comfy import FUSION_WEIGHTS, own_fusion
        from ..model.backends.comfy_guider import SVDPGuider
        from ..model.config import FusionConfig

        chosen = {name: weight for name, weight in chosen_fields(weights, "weights").items() if name in FUSION_WEIGHTS}
        fusion = FusionConfig(
            **own_fusion(model, chosen),
            source_range=(source_start, source_end),
            driving_range=(driving_start, driving_end),
            history_range=(history_start, history_end),
            eyes=eyes,
            nose=nose,
            mouth=mouth,
        )
        return io.NodeOutput(SVDPGuider(model, signals, fusion, conditioning))


class SVDPSampler(io.ComfyNode):
    """Sample a video of any length."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPSampler",
            display_name="Segmented Sampler (SVDP)",
            category=CATEGORY,
            description="Samples a video of any length in segments; the last frames of each are given to the next as "
            "history, so that they join. Under a name, finished segments are kept: a run that was stopped goes on.",
            search_aliases=["svdp", "long video sampler", "sampler custom advanced", "resume", "history frames"],
            inputs=[
                io.Noise.Input("noise", tooltip="Random Noise: the same seed and frame number give the same noise."),
                io.Guider.Input("guider", tooltip="From Signal Fusion."),
                io.Sampler.Input("sampler", tooltip="Any sampler: euler, or dpmpp_2m for fewer steps."),
                io.Sigmas.Input("sigmas", tooltip="From a scheduler that is connected to Apply Adapter's model."),
                own_or_chosen(
                    "segments",
                    "Segments as the adapter was trained, or your own.",
                    [
                        io.Int.Input(
                            "segment_length",
                            default=16,
                            min=1,
                            max=256,
                            tooltip="Frames that are made together; shorter takes less memory.",
                        ),
                        io.Int.Input(
                            "history",
                            default=3,
                            min=0,
                            max=64,
                            tooltip="How many frames before a segment are given to it. 0: none, segments may jump.",
                        ),
                        io.Float.Input(
                            "history_noise",
                            default=0.0,
                            min=0.0,
                            max=0.5,
                            step=0.01,
                            tooltip="A little noise on the history keeps errors from growing over a long video.",
                        ),
                        io.Float.Input(
                            "start",
                            default=1.0,
                            min=0.01,
                            max=1.0,
                            step=0.01,
                            round=0.001,
                            tooltip="Noise level at which sampling begins. 1: from noise. Lower: from the posed "
                            "source, of which more stays; needs posed at Encode Signals.",
                        ),
                    ],
                ),
                name_input(),
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
    def validate_inputs(cls, keep_as, segments=None):  # ComfyUI hands over choices with fields in any case
        return name_problem(keep_as) or True

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, segments, keep_as) -> io.NodeOutput:
        from ..model.backends.comfy_sampling import sample_video, segment_plan
        from .previews import sampling_callback

        own = chosen_fields(segments, "segments")
        plan = segment_plan(
            guider, own.get("segment_length", 0), own.get("history", -1), own.get("history_noise", -1.0),
            own.get("start", -1.0),
        )  # fmt: skip
        result = sample_video(
            guider,
            noise,
            sampler,
            sigmas,
            plan.segments,
            plan.history_noise,
            start=plan.start,
            folder=kept_folder(keep_as),
            on_step=sampling_callback(guider.model_patcher),
        )
        text = result.text()
        return io.NodeOutput({"samples": result.latents}, text, ui=ui.PreviewText(text))


NODES = [SVDPFusion, SVDPSampler]
