"""Stable Video-Driven Portraits: animate one portrait with a driving video on a Stable Diffusion 3.5 Medium model.

@author: video-driven-portraits
@title: Stable Video-Driven Portraits
@nickname: SVDP
@description: Animate one portrait with the eyes, nose and mouth of a driving video.

`svdp.animate` and `svdp.load_model` are the Python API, `svdp.read_jobs` and `svdp.run_jobs` do many videos with one
model. Importing this package imports nothing else: names are brought when they are first used. ComfyUI finds its nodes
through `comfy_entrypoint`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .animation.api import Progress, Result, animate, load_model
    from .animation.batch import Job, Outcome, read_jobs, run_jobs
    from .errors import AdapterMismatchError, Cancelled, MediaError, NoFaceError, UserError

_WHERE = {
    **dict.fromkeys(("Progress", "Result", "animate", "load_model"), ".animation.api"),
    **dict.fromkeys(("Job", "Outcome", "read_jobs", "run_jobs"), ".animation.batch"),
    **dict.fromkeys(("AdapterMismatchError", "Cancelled", "MediaError", "NoFaceError", "UserError"), ".errors"),
}
__all__ = [
    "AdapterMismatchError", "Cancelled", "Job", "MediaError", "NoFaceError", "Outcome", "Progress", "Result",
    "UserError", "animate", "load_model", "read_jobs", "run_jobs",
]  # fmt: skip

WEB_DIRECTORY = "./web"  # node help pages; there is no JavaScript


async def comfy_entrypoint():
    """The nodes, for ComfyUI; nothing of it is imported before it asks."""
    from .nodes import comfy_entrypoint as entrypoint

    return await entrypoint()


def __getattr__(name: str) -> Any:
    """The API's names, from where they are defined."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
