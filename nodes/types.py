"""Sockets of this package's own kinds, and what flows through them."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from typing import Any

from comfy_api.latest import io

CATEGORY = "portrait animation"
FACES = {"largest": "largest", "leftmost": "left", "rightmost": "right"}  # label -> `select` of signals.track

FaceTrackType = io.Custom("SVDP_FACE_TRACK")  # signals.track.FaceTrack
CropType = io.Custom("SVDP_CROP")  # signals.crops.Crop
AdapterType = io.Custom("SVDP_ADAPTER")  # model.backends.comfy.LoadedAdapter
MotionType = io.Custom("SVDP_MOTION")  # heads.face_motion.FaceMotion
SignalsType = io.Custom("SVDP_SIGNALS")  # model.backends.comfy_signals.VideoSignals
LandmarksType = io.Custom("FACE_LANDMARKS")  # what ComfyUI's own face landmarker gives

OWN, CHOSEN = "adapter's own", "chosen"  # whose numbers count


def own_or_chosen(name: str, tooltip: str, fields: list[Any], presets: tuple[str, ...] = ()) -> io.DynamicCombo.Input:
    """A choice between the adapter's own numbers, presets, and one's own numbers, whose fields show only then."""
    options = [io.DynamicCombo.Option(key, []) for key in (OWN, *presets)] + [io.DynamicCombo.Option(CHOSEN, fields)]
    return io.DynamicCombo.Input(name, options=options, tooltip=tooltip)


def chosen_fields(value: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """What was chosen at such an input: {} for the adapter's own."""
    return {} if not value or value[name] != CHOSEN else {k: v for k, v in value.items() if k != name}


def name_input() -> io.String.Input:
    """Under which name finished segments are kept."""
    return io.String.Input(
        "keep_as",
        default="",
        tooltip="A name: finished segments are kept in output/svdp under it, and a run that was stopped goes on from "
        "them with the same result. Empty: nothing is kept.",
    )


def track_input(name: str, tooltip: str) -> io.MultiType.Input:
    """A socket that takes a track, or the landmarks of ComfyUI's own detector."""
    tooltip += " The FACE_LANDMARKS of ComfyUI's own detector fit too."
    return io.MultiType.Input(name, types=[FaceTrackType, LandmarksType], optional=True, tooltip=tooltip)
