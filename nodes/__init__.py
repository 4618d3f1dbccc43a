"""ComfyUI nodes: a schema each, and a few lines that call the layers below."""


async def comfy_entrypoint():
    """The extension that ComfyUI loads; importing this package alone needs no ComfyUI."""
    from .extension import SVDPExtension

    return SVDPExtension()
