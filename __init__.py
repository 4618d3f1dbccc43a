"""Stable Video-Driven Portraits: animate one portrait with a driving video on a Stable Diffusion 3.5 Medium model.

@author: video-driven-portraits
@title: Stable Video-Driven Portraits
@nickname: SVDP
@description: Animate one portrait with the eyes, nose and mouth of a driving video.

Importing this package imports nothing else; take what you need from `svdp.model`, `svdp.signals`, `svdp.training`,
`svdp.evaluation` or the `svdp` command. ComfyUI finds its nodes through `comfy_entrypoint`.
"""

WEB_DIRECTORY = "./web"  # node help pages; there is no JavaScript


async def comfy_entrypoint():
    """The nodes, for ComfyUI; nothing of it is imported before it asks."""
    from .nodes import comfy_entrypoint as entrypoint

    return await entrypoint()
