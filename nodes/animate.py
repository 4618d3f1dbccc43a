"""The whole chain in one node, for the first five minutes."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from .folders import kept_folder, name_problem
from .types import CATEGORY, FACES, AdapterType, chosen_fields, name_input, own_or_chosen

PRESETS = ("fast", "faithful")  # beside the adapter's own
WHOLE, BEGINNING = "whole clip", "beginning"
NO_REGION = "switch at least one of eyes, nose and mouth on"
TOO_LARGE = (
    "the frames do not fit into memory as images: take the video output, which needs no memory, or choose length = "
    "beginning"
)


def _region(name: str, carries: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=True, advanced=True, tooltip=f"Follow the driver's {name}: {carries}.")


def _face(name: str, whose: str) -> io.Combo.Input:
    return io.Combo.Input(
        name, options=list(FACES), default="largest", advanced=True, tooltip=f"Which face in the {whose}, of several."
    )


def _model_inputs() -> list[Any]:
    return [
        io.Model.Input(
            "model",
            optional=True,
            tooltip="A Stable Diffusion 3.5 Medium model, LoRAs included. Open: the bundled small model.",
        ),
        AdapterType.Input(
            "adapter", optional=True, tooltip="From Load Adapter, made for this model. It is applied here."
        ),
        io.Vae.Input("vae", optional=True, tooltip="The VAE of Stable Diffusion 3.5."),
    ]


def _motion() -> io.Combo.Input:
    return io.Combo.Input(
        "motion",
        options=["absolute", "relative"],
        default="absolute",
        tooltip="absolute: the driver's own pose. relative: counted from the portrait's pose, so that the "
        "head does not jump in the first frame.",
    )


def _follow() -> io.Float.Input:
    return io.Float.Input(
        "follow",
        default=1.0,
        min=0.0,
        max=3.0,
        step=0.05,
        tooltip="How strongly the driver is followed: times the adapter's own weight. Lower where the face "
        "drifts towards the driver's, higher where mouth or eyes follow too weakly.",
    )


def _paste_back() -> io.Boolean.Input:
    return io.Boolean.Input(
        "paste_back",
        default=True,
        tooltip="Put the animated square back into the whole picture, or give the square alone.",
    )


def _chosen_parts() -> list[Any]:
    return [
        _region("eyes", "gaze and blinks"),
        _region("nose", "most of the head's pose"),
        _region("mouth", "lips and speech"),
        _face("source_face", "portrait"),
        _face("driving_face", "driving video"),
    ]


def _video_output() -> io.Video.Output:
    return io.Video.Output("video", display_name="video", tooltip="The animated portrait, for Save Video.")


def _told_outputs() -> list[Any]:
    return [
        io.Image.Output(
            "sheet",
            display_name="contact sheet",
            tooltip="Source, driver, what the model sees of the driver, and result, in a few frames.",
        ),
        io.String.Output(
            "report", display_name="report", tooltip="What was found in the driver; time of every segment."
        ),
    ]


def _preset(sampling: dict[str, Any] | None) -> str:
    """What was chosen at `sampling`; one's own number changes the adapter's own settings."""
    chosen = sampling["sampling"] if sampling else ""
    return chosen if chosen in PRESETS else "balanced"


class SVDPAnimate(io.ComfyNode):
    """A portrait and a driving clip in, a video of the portrait out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPAnimate",
            display_name="Animate Portrait (SVDP)",
            category=CATEGORY,
            description="The whole chain in one node: finds the faces, cuts them out, animates, pastes back. The "
            "result has the driver's sound, frame rate and number of frames. What did not change since the last run is "
            "not made again. Without anything connected to model, adapter and vae, the small bundled model is used.",
            search_aliases=["portrait animation", "talking head", "live portrait", "face reenactment", "svdp"],
            inputs=[
                io.Image.Input("source", tooltip="The portrait: one picture with a face, of any size."),
                io.MultiType.Input(
                    "driving",
                    types=[io.Video, io.Image],
                    tooltip="The clip whose eyes, nose and mouth drive the portrait: a VIDEO, or its frames as an "
                    "IMAGE batch, as other packs' Load Video gives them.",
                ),
                *_model_inputs(),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed gives the same result, frame by frame, whatever the video's length.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["model", "draft"],
                    default="model",
                    tooltip="model: the model animates. draft: the portrait's 3D head alone, without sampling, as "
                    "sharp as the portrait.",
                ),
                _motion(),
                _follow(),
                own_or_chosen(
                    "sampling",
                    "How many steps: as many as the adapter's file says; half as many (fast); the paper's 40 with all "
                    "four branches (faithful); or your own number.",
                    [io.Int.Input("steps", default=8, min=1, max=200, tooltip="Sampling steps; fewer are faster.")],
                    PRESETS,
                ),
                io.DynamicCombo.Input(
                    "length",
                    options=[
                        io.DynamicCombo.Option(WHOLE, []),
                        io.DynamicCombo.Option(
                            BEGINNING,
                            [
                                io.Int.Input(
                                    "frames", default=32, min=1, max=1000000, tooltip="How many frames are animated."
                                )
                            ],
                        ),
                    ],
                    tooltip="Animate the whole clip, or only its beginning to try something out.",
                ),
                _paste_back(),
                name_input(),
                *_chosen_parts(),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip="Frames per second, only where the driver is an IMAGE batch: a VIDEO brings its own.",
                ),
            ],
            outputs=[
                _video_output(),
                io.Image.Output(
                    "images",
                    display_name="images",
                    tooltip="The same frames, where they fit in memory.",
                ),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="Where the animated square is seen in them.",
                ),
                *_told_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, eyes, nose, mouth, keep_as, sampling=None, length=None):
        # ComfyUI hands over choices with fields whether they are asked for or not
        off = eyes is False and nose is False and mouth is False  # None: connected, not known yet
        return NO_REGION if off else name_problem(keep_as) or True

    @classmethod
    def execute(
        cls, source, driving, seed, mode, motion, follow, sampling, length, paste_back, keep_as, eyes, nose, mouth,
        source_face, driving_face, fps, model=None, adapter=None, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        from comfy_execution.graph_utils import ExecutionBlocker

        from .clips import open_clip
        from .media import to_image

        regions = _regions(eyes, nose, mouth)
        max_frames = length.get("frames", 0) if length["length"] == BEGINNING else 0
        made = _run(
            mode, source, open_clip(driving, fps, max_frames), (model, adapter, vae),
            seed=seed, steps=chosen_fields(sampling, "sampling").get("steps", 0), preset=_preset(sampling),
            follow=follow, motion=motion,
            paste=paste_back, max_frames=max_frames, regions=regions, source_face=FACES[source_face],
            driving_face=FACES[driving_face], folder=kept_folder(keep_as), images=True,
        )  # fmt: skip
        video, sheet = InputImpl.VideoFromFile(str(made.path)), to_image(made.sheet[None])
        if made.images is None:
            images = mask = ExecutionBlocker(TOO_LARGE)
        else:
            images, mask = made.images, made.mask.expand(len(made.images), -1, -1)
        return io.NodeOutput(video, images, mask, sheet, made.report, ui=ui.PreviewText(made.report))


class SVDPAnimatePortrait(io.ComfyNode):
    """As it was in version 0.1, for workflows that were saved then."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPAnimatePortrait",
            display_name="Animate Portrait, as in 0.1 (SVDP)",
            category=CATEGORY,
            is_deprecated=True,
            description="The first form of Animate Portrait, kept so that saved workflows load. Use Animate Portrait, "
            "which also takes and gives images.",
            search_aliases=["portrait animation", "svdp", "old animate portrait"],
            inputs=[
                io.Image.Input("source", tooltip="The portrait: one picture with a face, of any size."),
                io.Video.Input("driving", tooltip="The video whose eyes, nose and mouth drive the portrait."),
                *_model_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="The same seed gives the same result, frame by frame, whatever the video's length.",
                ),
                _motion(),
                _follow(),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=200,
                    tooltip="Sampling steps; fewer are faster. 0: as many as the adapter's file says.",
                ),
                io.Int.Input(
                    "max_frames",
                    default=0,
                    min=0,
                    max=1000000,
                    tooltip="Animate only the beginning of the video; 0: all of it.",
                ),
                _paste_back(),
                *_chosen_parts(),
                io.Combo.Input(
                    "mode",
                    options=["model", "draft"],
                    default="model",
                    optional=True,
                    tooltip="model: the model animates. draft: the portrait's 3D head alone, without sampling, as "
                    "sharp as the portrait.",
                ),
            ],
            outputs=[_video_output(), *_told_outputs()],
        )

    @classmethod
    def validate_inputs(cls, eyes, nose, mouth):
        return NO_REGION if eyes is False and nose is False and mouth is False else True

    @classmethod
    def execute(
        cls, source, driving, seed, motion, follow, steps, max_frames, paste_back, eyes, nose, mouth,
        source_face, driving_face, model=None, adapter=None, vae=None, mode="model",
    ) -> io.NodeOutput:  # fmt: skip
        from .clips import open_clip
        from .media import to_image

        made = _run(
            mode, source, open_clip(driving, max_frames=max_frames), (model, adapter, vae),
            seed=seed, steps=steps, follow=follow, motion=motion, paste=paste_back, max_frames=max_frames,
            regions=_regions(eyes, nose, mouth), source_face=FACES[source_face], driving_face=FACES[driving_face],
        )  # fmt: skip
        return io.NodeOutput(InputImpl.VideoFromFile(str(made.path)), to_image(made.sheet[None]), made.report)


def _regions(eyes: bool, nose: bool, mouth: bool) -> tuple[str, ...]:
    return tuple(name for name, on in (("eyes", eyes), ("nose", nose), ("mouth", mouth)) if on)


def _run(mode: str, source: Any, clip: Any, parts: tuple[Any, Any, Any], **wishes: Any) -> Any:
    from . import animation

    if mode == "draft":
        return animation.draft(parts[1], source, clip, animation.Wishes(**wishes))
    return animation.animate(animation.complete_model(*parts), source, clip, animation.Wishes(**wishes))


NODES = [SVDPAnimate, SVDPAnimatePortrait]
