"""All nodes, and the folders in which ComfyUI's own loaders find the bundled model."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import ComfyExtension

from . import animate, evaluate, examples, model, motion, sampling, signals, tracks
from .folders import register_folders

MODULES = (animate, examples, signals, tracks, model, sampling, evaluate, motion)


class SVDPExtension(ComfyExtension):
    """What ComfyUI gets from this package."""

    async def on_load(self) -> None:
        """Called once, before the lists of files are read."""
        register_folders()

    async def get_node_list(self) -> list:
        """Node classes in the order of the documentation."""
        return [node for module in MODULES for node in module.NODES]
