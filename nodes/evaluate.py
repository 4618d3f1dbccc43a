"""How well a result follows its driver, in numbers."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from comfy_api.latest import io, ui

from .types import CATEGORY


class SVDPEvaluate(io.ComfyNode):
    """Measure a result against its driver, its source and, if there is one, the true video."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SVDPEvaluate",
            display_name="Evaluate (SVDP)",
            category=CATEGORY,
            description="Finds the face anew in the finished images and says how well head, mouth, blinks and gaze "
            "follow the driver, how steady the video is, and how near it is to the true one. Beside every number "
            "stands what the portrait held still would get.",
            search_aliases=["metrics", "csim", "psnr", "ssim", "gaze error", "compare videos", "benchmark", "svdp"],
            inputs=[
                io.Image.Input("result", tooltip="The animated images: of the source's size, or squares."),
                io.Image.Input("source", tooltip="The portrait: one picture."),
                io.Image.Input("driver", tooltip="The driving frames, in order, from the first of the result on."),
                io.Image.Input(
                    "target",
                    optional=True,
                    tooltip="What the result ought to be, where that is known: for a person who drives her own "
                    "portrait, the driving frames themselves. Adds PSNR, SSIM, L1 and tOF.",
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Frames per second of driver and result. Connect Get Video Components.",
                ),
                io.Int.Input(
                    "size",
                    default=256,
                    min=64,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="Side in pixels of the squares that are compared: the model's size (bundled: 256).",
                ),
                io.Int.Input(
                    "segment_length",
                    default=0,
                    min=0,
                    max=256,
                    advanced=True,
                    tooltip="Frames of a segment, to measure the seams between them; 0: not made in segments.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.9,
                    min=0.5,
                    max=4.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Side of those squares over the size of the face: the model's (bundled: 1.4).",
                ),
            ],
            outputs=[
                io.String.Output("table", display_name="table", tooltip="The numbers, for Preview as Text."),
                io.Image.Output(
                    "plot", display_name="plot", tooltip="Head angles, mouth, blinks and gaze of driver and result."
                ),
            ],
        )

    @classmethod
    def execute(cls, result, source, driver, fps, size, segment_length, scale=1.9, target=None) -> io.NodeOutput:
        from ..signals.crops import CropConfig
        from .measure import evaluate_images

        rule = CropConfig(size=size, scale=scale)
        table, plot = evaluate_images(result, source, driver, target, fps, rule, segment_length)
        return io.NodeOutput(table, plot, ui=ui.PreviewText(table))


NODES = [SVDPEvaluate]
