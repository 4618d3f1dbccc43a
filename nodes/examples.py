"""A portrait and a driving clip to begin with: the bundled ones, so that a first workflow runs as it is."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import InputImpl, io

from .folders import EXAMPLES
from .types import CATEGORY, AdapterType

PORTRAITS = {"fair hair": "source.jpg", "dark hair": "source2.jpg"}
CLIPS = {"woman talking": "driving.mp4", "man talking": "driving2.mp4"}


class SVDPExampleMedia(io.ComfyNode):
    """The bundled portraits and clips."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPExampleMedia",
            display_name="Example Media (SVDP)",
            category=CATEGORY,
            description="A bundled portrait and driving clip of generated people, so that a first workflow runs "
            "without any file of your own. Put Load Image and Load Video in its place afterwards.",
            search_aliases=["svdp", "sample portrait", "test clip", "demo media"],
            inputs=[
                io.Combo.Input("portrait", options=list(PORTRAITS), tooltip="Which bundled portrait to animate."),
                io.Combo.Input("clip", options=list(CLIPS), tooltip="Which bundled clip drives it; both have sound."),
            ],
            outputs=[
                io.Image.Output("portrait_image", display_name="portrait", tooltip="The portrait, one image."),
                io.Video.Output("driving_video", display_name="driving video", tooltip="The clip with its sound."),
            ],
        )

    @classmethod
    def execute(cls, portrait, clip) -> io.NodeOutput:
        from ..signals.images import load_image
        from .media import to_image

        picture = load_image(EXAMPLES / PORTRAITS[portrait])
        return io.NodeOutput(to_image(picture[None]), InputImpl.VideoFromFile(str(EXAMPLES / CLIPS[clip])))


class SVDPBundledModel(io.ComfyNode):
    """The bundled model, whole."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPBundledModel",
            display_name="Bundled Model (SVDP)",
            category=CATEGORY,
            description="The small model that comes with this pack: base, adapter and autoencoder in one node, in the "
            "precision in which this machine computes fastest. Nothing has to be downloaded.",
            search_aliases=["svdp", "mini model", "load svdp model", "small portrait model"],
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The base, for Apply Adapter."),
                AdapterType.Output("adapter", display_name="adapter", tooltip="For Apply Adapter and Face Crop."),
                io.Vae.Output("vae", display_name="vae", tooltip="For Encode Signals and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .bundled import bundled_model

        made = bundled_model()
        return io.NodeOutput(made.model, made.adapter, made.vae)


NODES = [SVDPExampleMedia, SVDPBundledModel]
