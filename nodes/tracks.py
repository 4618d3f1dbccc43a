"""Face tracks as files in output/svdp/tracks: a long clip is tracked once."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import io

from .folders import kept_folder, name_problem
from .types import CATEGORY, FaceTrackType

FOLDER = "tracks"


def track_names() -> list[str]:
    """Names of the tracks that were saved, the newest first."""
    from ..signals.track_file import SUFFIX

    folder = kept_folder(FOLDER)
    found = [] if folder is None or not folder.is_dir() else list(folder.glob(f"*{SUFFIX}"))
    return [p.name.removesuffix(SUFFIX) for p in sorted(found, key=lambda p: -p.stat().st_mtime)]


def track_path(name: str):
    """The file of a saved track."""
    from ..signals.track_file import SUFFIX

    return kept_folder(FOLDER) / f"{name}{SUFFIX}"


class SVDPSaveTrack(io.ComfyNode):
    """Write a track."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPSaveTrack",
            display_name="Save Face Track (SVDP)",
            category=CATEGORY,
            description="Keeps a face track as a file in output/svdp/tracks, so that a long clip is tracked once: Load "
            "Face Track gives it back in another run or workflow. A track of the same name is replaced.",
            search_aliases=["svdp", "keep landmarks", "export track", "cache face track"],
            inputs=[
                FaceTrackType.Input("track", tooltip="From Face Track."),
                io.String.Input("name", default="my clip", tooltip="What the track is called, without separators."),
            ],
            outputs=[FaceTrackType.Output("saved", display_name="track", tooltip="The same track.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name):
        return "give the track a name" if name == "" else name_problem(name) or True

    @classmethod
    def execute(cls, track, name) -> io.NodeOutput:
        from ..signals.track_file import save_track

        save_track(track_path(name), track)
        return io.NodeOutput(track)


class SVDPLoadTrack(io.ComfyNode):
    """Read a track."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPLoadTrack",
            display_name="Load Face Track (SVDP)",
            category=CATEGORY,
            description="Gives back a face track that Save Face Track wrote, in place of Face Track: nothing is looked "
            "for in the images again. Press R where a new one is not in the list yet.",
            search_aliases=["svdp", "load landmarks", "import track", "saved face track"],
            inputs=[io.Combo.Input("name", options=track_names(), tooltip="A track in output/svdp/tracks.")],
            outputs=[
                FaceTrackType.Output("track", display_name="track", tooltip="For Face Crop and Region Masks."),
                io.String.Output(
                    "report", display_name="report", tooltip="Where the face was not seen, and its motion."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        path = track_path(name)
        return f"{path.stat().st_mtime_ns}" if path.is_file() else ""

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        from ..signals.track import describe_track
        from ..signals.track_file import load_track

        track = load_track(track_path(name))
        return io.NodeOutput(track, describe_track(track))


NODES = [SVDPSaveTrack, SVDPLoadTrack]
