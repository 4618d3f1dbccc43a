"""Sockets of this package's own kinds, and what flows through them."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import io

CATEGORY = "portrait animation"
FACES = {"largest": "largest", "leftmost": "left", "rightmost": "right"}  # label -> `select` of signals.track

FaceTrackType = io.Custom("SVDP_FACE_TRACK")  # signals.track.FaceTrack
CropType = io.Custom("SVDP_CROP")  # signals.crops.Crop
AdapterType = io.Custom("SVDP_ADAPTER")  # model.backends.comfy.LoadedAdapter
MotionType = io.Custom("SVDP_MOTION")  # heads.face_motion.FaceMotion
LandmarksType = io.Custom("FACE_LANDMARKS")  # what ComfyUI's own face landmarker gives


def track_input(name: str, tooltip: str) -> io.MultiType.Input:
    """A socket that takes a track, or the landmarks of ComfyUI's own detector."""
    tooltip += " The FACE_LANDMARKS of ComfyUI's own detector fit too."
    return io.MultiType.Input(name, types=[FaceTrackType, LandmarksType], optional=True, tooltip=tooltip)
