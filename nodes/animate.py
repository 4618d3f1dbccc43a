"""The whole chain in one node, for the first five minutes."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import InputImpl, io

from .types import CATEGORY, FACES, AdapterType


def _region(name: str, carries: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=True, advanced=True, tooltip=f"The driver's {name} counts: {carries}.")


def _face(name: str, whose: str) -> io.Combo.Input:
    return io.Combo.Input(
        name, options=list(FACES), default="largest", advanced=True, tooltip=f"Which face in the {whose}, of several."
    )


class SVDPAnimatePortrait(io.ComfyNode):
    """A portrait and a driving video in, a video of the portrait out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPAnimatePortrait",
            display_name="Animate Portrait (SVDP)",
            category=CATEGORY,
            description="The whole chain in one node: finds the faces, cuts them out, animates, pastes back. The "
            "result has the driver's sound, frame rate and number of frames; of a long video only small squares stay "
            "in memory. Without anything connected to model, adapter and vae, the small bundled model is used.",
            search_aliases=["portrait animation", "talking head", "live portrait", "face reenactment", "svdp"],
            inputs=[
                io.Image.Input("source", tooltip="The portrait: one picture with a face, of any size."),
                io.Video.Input("driving", tooltip="The video whose eyes, nose and mouth drive the portrait."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A Stable Diffusion 3.5 Medium model, LoRAs included. Open: the bundled small model.",
                ),
                AdapterType.Input(
                    "adapter", optional=True, tooltip="From Load Adapter, made for this model. It is applied here."
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE of Stable Diffusion 3.5."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="The same seed gives the same result, frame by frame, whatever the video's length.",
                ),
                io.Combo.Input(
                    "motion",
                    options=["absolute", "relative"],
                    default="absolute",
                    tooltip="absolute: the driver's own pose. relative: counted from the portrait's pose, so that the "
                    "head does not jump in the first frame.",
                ),
                io.Float.Input(
                    "follow",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How strongly the driver is followed: times the adapter's own weight. Lower where the face "
                    "drifts towards the driver's, higher where mouth or eyes follow too weakly.",
                ),
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
                io.Boolean.Input(
                    "paste_back",
                    default=True,
                    tooltip="Put the animated square back into the whole picture, or give the square alone.",
                ),
                _region("eyes", "gaze and blinks"),
                _region("nose", "most of the head's pose"),
                _region("mouth", "lips and speech"),
                _face("source_face", "portrait"),
                _face("driving_face", "driving video"),
                io.Combo.Input(
                    "mode",
                    options=["model", "draft"],
                    default="model",
                    optional=True,
                    tooltip="model: the model animates. draft: the portrait's 3D head alone, without sampling, as "
                    "sharp as the portrait.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The animated portrait, for Save Video."),
                io.Image.Output(
                    "sheet",
                    display_name="contact sheet",
                    tooltip="Source, driver, what the model sees of the driver, and result, in a few frames.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found in the driver; time of every segment.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, eyes, nose, mouth):
        off = eyes is False and nose is False and mouth is False  # None: connected, not known yet
        return "switch at least one of eyes, nose and mouth on" if off else True

    @classmethod
    def execute(
        cls, source, driving, seed, motion, follow, steps, max_frames, paste_back, eyes, nose, mouth,
        source_face, driving_face, model=None, adapter=None, vae=None, mode="model",
    ) -> io.NodeOutput:  # fmt: skip
        from . import animation
        from .media import to_image, video_file

        wishes = animation.Wishes(
            seed=seed,
            steps=steps,
            follow=follow,
            motion=motion,
            paste=paste_back,
            max_frames=max_frames,
            regions=tuple(name for name, on in (("eyes", eyes), ("nose", nose), ("mouth", mouth)) if on),
            source_face=FACES[source_face],
            driving_face=FACES[driving_face],
        )
        if mode == "draft":
            made = animation.draft(adapter, source[0], video_file(driving), wishes)
        else:
            complete = animation.complete_model(model, adapter, vae)
            made = animation.animate(complete, source[0], video_file(driving), wishes)
        return io.NodeOutput(InputImpl.VideoFromFile(str(made.path)), to_image(made.sheet[None]), made.report)


NODES = [SVDPAnimatePortrait]
