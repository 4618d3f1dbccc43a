"""Nodes on motion as a value: from a driver, from words, edited, mixed, timed, saved and loaded."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
import re
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from .types import CATEGORY, FaceTrackType, MotionType

ENDING = ".motion.json"
NAME = re.compile(r"[\w\- ()][\w\- ().]{0,99}")
NAME_RULE = "the name must be of letters, digits, spaces, - _ . ( ), not begin with a dot, and have at most 100 of them"
PARTS = {"nothing": "", "eyes": "eyes", "mouth": "mouth_all", "whole face": "expression", "head": "head"}
SLIDERS = (  # name, limit, step, hidden at first, what a positive value does
    ("yaw", 45.0, 0.5, False, "Degrees: the head turns to the picture's right"),
    ("pitch", 30.0, 0.5, False, "Degrees: the head nods down"),
    ("roll", 45.0, 0.5, False, "Degrees: the head tilts to the picture's left"),
    ("gaze_sideways", 1.0, 0.01, False, "The eyes look to the picture's right"),
    ("gaze_up", 1.0, 0.01, False, "The eyes look up, the lids follow"),
    ("lids", 1.0, 0.01, False, "The eyes open wider; -1 closes open eyes"),
    ("brows", 1.0, 0.01, False, "The brows rise; below 0 they frown"),
    ("mouth", 1.0, 0.01, False, "The mouth opens; below 0 it closes"),
    ("smile", 1.0, 0.01, False, "A smile; below 0 the corners of the mouth fall"),
    ("pucker", 1.0, 0.01, False, "The lips are pursed; below 0 they are stretched"),
    ("jaw", 1.0, 0.01, False, "The jaw moves to the picture's right"),
    ("right", 1.0, 0.01, True, "Shares of the square's side: the head moves to the picture's right"),
    ("up", 1.0, 0.01, True, "Shares of the square's side: the head moves up"),
    ("zoom", 1.0, 0.01, True, "The head grows; 0.1 is about a tenth"),
)
STRENGTHS = {  # input -> part or control
    "expression_strength": "expression",
    "head_strength": "head",
    "eyes_strength": "eyes",
    "mouth_strength": "mouth_all",
}


def _slider(name: str, limit: float, step: float, advanced: bool, effect: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=0.0,
        min=-limit,
        max=limit,
        step=step,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        advanced=advanced,
        tooltip=f"{effect}. Added to the motion, or to the portrait's own.",
    )


def _strength(name: str, what: str, advanced: bool) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.01,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        advanced=advanced,
        tooltip=f"How strongly {what} of the motion counts: 0 stays as in the portrait, above 1 exaggerates.",
    )


def motion_files() -> list[str]:
    """Files of motion in ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory())
    return sorted(p.name for p in folder.glob(f"*{ENDING}")) if folder.is_dir() else []


class SVDPDriverMotion(io.ComfyNode):
    """What a driver does, as a motion."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPDriverMotion",
            display_name="Driver Motion (SVDP)",
            category=CATEGORY,
            description="Reads off a driver's face what it does: expression, gaze, turns and place of the head, free "
            "of whose face it is. It can be edited, mixed, timed and saved, and any portrait can make it.",
            search_aliases=["svdp", "motion capture", "face motion", "blendshapes", "retarget"],
            inputs=[
                FaceTrackType.Input("driver_track", tooltip="The crop track of the driver's Face Crop."),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Frames per second of the driver. Connect Get Video Components.",
                ),
            ],
            outputs=[
                MotionType.Output("motion", display_name="motion", tooltip="What the driver does, frame by frame."),
                io.String.Output("report", display_name="report", tooltip="How far head, eyes and mouth move."),
            ],
        )

    @classmethod
    def execute(cls, driver_track, fps) -> io.NodeOutput:
        from . import moves

        motion = moves.of_track(driver_track, fps)
        return io.NodeOutput(motion, moves.described(motion))


class SVDPEditMotion(io.ComfyNode):
    """Sliders for a motion, or for a still portrait."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPEditMotion",
            display_name="Edit Motion (SVDP)",
            category=CATEGORY,
            description="Sliders for head, eyes and mouth. With a motion they are added to it, and its strength can "
            "be changed, the face's and the head's apart. Without one they edit a single portrait. Also says which "
            "of the driver's pixels still show what is done, for Region Masks.",
            search_aliases=["expression editor", "face sliders", "retarget", "live portrait editor", "svdp", "smile"],
            inputs=[
                MotionType.Input("motion", optional=True, tooltip="What is edited. Open: the portrait as it is."),
                *(_slider(*slider) for slider in SLIDERS),
                _strength("expression_strength", "the face", False),
                _strength("head_strength", "the head's turning and place", False),
                _strength("eyes_strength", "the part of eyes and brows", True),
                _strength("mouth_strength", "the part of the mouth", True),
                io.Combo.Input(
                    "freeze",
                    options=list(PARTS),
                    default="nothing",
                    advanced=True,
                    tooltip="This part stays as it is in one frame of the motion.",
                ),
                io.Int.Input(
                    "freeze_frame", default=0, min=0, max=1000000, advanced=True, tooltip="The frame, counted from 0."
                ),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=100000,
                    advanced=True,
                    tooltip="Without a motion: so many equal frames.",
                ),
            ],
            outputs=[
                MotionType.Output("edited", display_name="motion", tooltip="For Pose Portrait, or further edits."),
                io.String.Output("report", display_name="report", tooltip="What is edited, what contradicts."),
                io.Boolean.Output(
                    "eyes_agree", display_name="eyes", tooltip="Whether the driver's eyes still show what is done."
                ),
                io.Boolean.Output(
                    "nose_agree", display_name="nose", tooltip="Likewise its nose: not if the head is edited."
                ),
                io.Boolean.Output("mouth_agree", display_name="mouth", tooltip="Likewise its mouth."),
            ],
        )

    @classmethod
    def execute(cls, freeze, freeze_frame, frames, motion=None, **sliders) -> io.NodeOutput:
        from . import moves

        offsets = {name: sliders[name] for name, *_ in SLIDERS}
        strengths = {part: sliders[name] for name, part in STRENGTHS.items()}
        made = moves.edited(motion, offsets, strengths, PARTS[freeze], freeze_frame, frames)
        return io.NodeOutput(made, moves.told(made), *(region in made.agreeing for region in moves.REGIONS))


class SVDPExpressions(io.ComfyNode):
    """Words, a frame a line."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPExpressions",
            display_name="Expressions (SVDP)",
            category=CATEGORY,
            description="Several expressions of one portrait, a line each, as a motion: smile=0.8, brows=0.4. Names "
            "are those of Edit Motion's sliders. An empty line is the portrait as it is.",
            search_aliases=["expression sheet", "emotion strip", "keyframes", "svdp", "face expressions"],
            inputs=[
                io.String.Input(
                    "lines",
                    multiline=True,
                    default="smile=0.8\nbrows=0.8, mouth=0.3\nlids=-1",
                    tooltip="One frame a line: names and values of sliders by comma, such as smile=0.5, yaw=10.",
                ),
                io.Int.Input(
                    "between",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="So many frames from one line to the next, for a video; 0: the lines alone.",
                ),
                io.Float.Input(
                    "fps", default=25.0, min=1.0, max=240.0, step=0.01, round=0.001, tooltip="Frames per second."
                ),
            ],
            outputs=[MotionType.Output("motion", display_name="motion", tooltip="A frame for each line.")],
        )

    @classmethod
    def execute(cls, lines, between, fps) -> io.NodeOutput:
        from . import moves

        return io.NodeOutput(moves.of_lines(lines, between, fps))


class SVDPMixMotion(io.ComfyNode):
    """Several drivers on one time line."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPMixMotion",
            display_name="Mix Motion (SVDP)",
            category=CATEGORY,
            description="The head of one driver, the eyes of another, the mouth of a third, on one time line at the "
            "head's frame rate. What is not connected is the head's own. A second head can be blended in.",
            search_aliases=["combine motion", "two drivers", "eyes and mouth", "blend motion", "svdp"],
            inputs=[
                MotionType.Input("head", tooltip="Turns and place of the head, and all that is not connected."),
                MotionType.Input("eyes", optional=True, tooltip="Gaze, lids and brows."),
                MotionType.Input("mouth", optional=True, tooltip="Mouth, jaw and cheeks."),
                MotionType.Input("blend_with", optional=True, tooltip="Another whole motion, blended in by share."),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Of blend_with: 0 is the first motion, 1 the other.",
                ),
                io.Combo.Input(
                    "length",
                    options=["shortest", "longest"],
                    default="shortest",
                    tooltip="longest: the shorter ones hold their last frame.",
                ),
            ],
            outputs=[MotionType.Output("motion", display_name="motion", tooltip="All of them together.")],
        )

    @classmethod
    def execute(cls, head, share, length, eyes=None, mouth=None, blend_with=None) -> io.NodeOutput:
        from . import moves

        return io.NodeOutput(moves.mixed(head, eyes, mouth, blend_with, share, length == "longest"))


class SVDPTimeMotion(io.ComfyNode):
    """Cut, slow, smooth, reverse, loop."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPTimeMotion",
            display_name="Time Motion (SVDP)",
            category=CATEGORY,
            description="A motion over time: cut out, slower or faster, calmer, backwards, and as a loop without a "
            "jump. In this order.",
            search_aliases=["slow motion", "loop motion", "reverse", "smooth motion", "trim", "svdp"],
            inputs=[
                MotionType.Input("motion", tooltip="From Driver Motion, Edit Motion, Load Motion."),
                io.Int.Input("first", default=0, min=0, max=1000000, tooltip="First frame, counted from 0."),
                io.Int.Input("frames", default=0, min=0, max=1000000, tooltip="So many frames; 0: to the end."),
                io.Boolean.Input("reverse", default=False, tooltip="The last frame first."),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=0.05,
                    max=20.0,
                    step=0.05,
                    round=0.001,
                    tooltip="0.5 is half as fast: twice as many frames.",
                ),
                io.Float.Input(
                    "smoothing", default=0.0, min=0.0, max=50.0, step=0.1, tooltip="Calmer: so many frames wide."
                ),
                io.Int.Input("loops", default=1, min=1, max=1000, tooltip="So often one after the other."),
                io.Int.Input(
                    "seam",
                    default=6,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="Frames over which the end turns into the beginning, with two loops and more.",
                ),
            ],
            outputs=[MotionType.Output("timed", display_name="motion", tooltip="The motion on its new time line.")],
        )

    @classmethod
    def execute(cls, motion, first, frames, reverse, speed, smoothing, loops, seam) -> io.NodeOutput:
        from . import moves

        return io.NodeOutput(moves.timed(motion, first, frames, reverse, speed, smoothing, loops, seam))


class SVDPSaveMotion(io.ComfyNode):
    """Write a motion into the output folder."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPSaveMotion",
            display_name="Save Motion (SVDP)",
            category=CATEGORY,
            description="Writes a motion as text (JSON) into ComfyUI's output folder, exact to the bit. Put it into "
            "the input folder to load it.",
            search_aliases=["export motion", "write motion", "motion template", "svdp", "save expression"],
            inputs=[
                MotionType.Input("motion", tooltip="What is saved, edits included."),
                io.String.Input("name", default="motion", tooltip="Name of the file, without folders."),
            ],
            outputs=[io.String.Output("file", display_name="file", tooltip="Name of the file in the output folder.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name):
        return True if name is None or NAME.fullmatch(name) else NAME_RULE

    @classmethod
    def execute(cls, motion, name) -> io.NodeOutput:
        from ..errors import UserError
        from . import moves

        if not NAME.fullmatch(name):  # connected, so not seen by validate_inputs
            raise UserError(NAME_RULE)
        saved = moves.saved(motion, name.strip(), folder_paths.get_output_directory())
        return io.NodeOutput(saved, ui=ui.PreviewText(saved))


class SVDPLoadMotion(io.ComfyNode):
    """Read a motion from the input folder."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPLoadMotion",
            display_name="Load Motion (SVDP)",
            category=CATEGORY,
            description="Reads a motion from ComfyUI's input folder: a file whose name ends in .motion.json, from "
            "Save Motion, or from svdp animate --save-motion.",
            search_aliases=["import motion", "read motion", "motion template", "svdp", "load expression"],
            inputs=[io.Combo.Input("file", options=motion_files(), tooltip="A .motion.json file in the input folder.")],
            outputs=[MotionType.Output("motion", display_name="motion", tooltip="As it was saved, edits included.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        status = Path(folder_paths.get_annotated_filepath(file)).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from . import moves

        return io.NodeOutput(moves.loaded(folder_paths.get_annotated_filepath(file)))


NODES = [
    SVDPDriverMotion,
    SVDPEditMotion,
    SVDPExpressions,
    SVDPMixMotion,
    SVDPTimeMotion,
    SVDPSaveMotion,
    SVDPLoadMotion,
]
