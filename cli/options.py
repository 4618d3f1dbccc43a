"""Options of `svdp animate`, one annotated type each; the command's signature is then one line an option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _option(panel: str) -> Any:
    def option(help: str, *names: str, **limits: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=panel, **limits)

    return option


_files, _model = _option("Files"), _option("Model")
_signals, _sampling = _option("Motion signals"), _option("Sampling")
_AS_TRAINED = "By default what the adapter says."

Source = Annotated[Path, _files("Portrait to animate: PNG, JPEG, WebP, ...", "--source", "-s")]
Driving = Annotated[Path, _files("Video whose eyes, nose and mouth drive it.", "--driving", "-d")]
Output = Annotated[Path, _files("Video to write (.mp4).", "--output", "-o")]
Start = Annotated[int, _files("First driving frame, from 0.", min=0)]
MaxFrames = Annotated[int | None, _files("Only the first so many frames of the result.", min=1)]
PasteBack = Annotated[bool, _files("Into the whole picture, or the bare square.", "--paste-back/--keep-crop")]
MaxSide = Annotated[int, _files("A larger source is scaled down to this many pixels.", min=64)]
ContactSheet = Annotated[bool, _files("Write OUT.sheet.png as well.")]
Overwrite = Annotated[bool, _files("Replace an existing output, or what a stopped run kept.", "--overwrite")]
Resume = Annotated[bool, _files("Go on where a stopped run with the same settings ended.", "--resume")]
Force = Annotated[bool, _files("Go on where the driver's face is seen in under a tenth of the frames.", "--force")]

Draft = Annotated[bool, _model("The portrait's own 3D head alone: seconds, no model, the portrait's resolution.")]
Weights = Annotated[
    Path | None, _model("Folder with *base, *adapter and *autoencoder.safetensors. By default the bundled model.")
]
Base = Annotated[Path | None, _model("SD3-family base: diffusers folder or single safetensors file.")]
Adapter = Annotated[Path | None, _model("Adapter for that base.")]
Autoencoder = Annotated[Path | None, _model("Autoencoder: TAESD form or SD3's VAE. By default the base's own.")]
Strength = Annotated[float, _model("Of the adapter; 0 is the bare base.", min=0)]
Device = Annotated[str, _model("auto, cpu, cuda, cuda:1, mps, ...")]
DType = Annotated[str, _model("auto, float32, bfloat16 or float16.")]

Regions = Annotated[str, _signals("Which of eyes,nose,mouth drive.")]
Brows = Annotated[bool, _signals("The eyes' region takes in the brows.", "--brows")]
Dilation = Annotated[float, _signals("Growth of the regions, in eye distances.", min=0)]
Motion = Annotated[str, _signals("absolute: the driver's own pose; relative: counted from the source's pose.")]
Reference = Annotated[int, _signals("Relative motion: the driving frame laid over the source.", min=0)]
Edit = Annotated[
    str, _signals("Change the motion: smile=0.3 adds, yaw*0.5 weakens, head@0 holds frame 0. See `svdp edit --help`.")
]
MotionFile = Annotated[Path | None, _signals("Motion in place of the driver's, as --save-motion writes it.")]
SaveMotion = Annotated[Path | None, _signals("Write the motion, edits included (.json).")]
SelectFace = Annotated[str, _signals("The driver's face: largest, left, right, or 0, 1, ... from the left.")]
SourceFace = Annotated[str, _signals("The source's face, likewise.")]

Resolution = Annotated[int | None, _sampling(f"Side of the animated square, pixels. {_AS_TRAINED}")]
CropScale = Annotated[float | None, _sampling(f"Side of the animated square / size of the face. {_AS_TRAINED}")]
Preset = Annotated[
    str, _sampling("faithful: 40 steps, all four branches. balanced: as the adapter says. fast: half its steps.")
]
Steps = Annotated[int | None, _sampling(f"Sampling steps. {_AS_TRAINED}", min=1)]
Seed = Annotated[int, _sampling("Same seed, same result.", min=0)]
Solver = Annotated[str | None, _sampling(f"euler or dpmpp_2m. {_AS_TRAINED}")]
FusionSource = Annotated[float | None, _sampling(f"Weight of the source. {_AS_TRAINED}")]
FusionDriving = Annotated[float | None, _sampling(f"Weight of the driver. {_AS_TRAINED}")]
FusionHistory = Annotated[float | None, _sampling(f"Weight of the frames before. {_AS_TRAINED}")]
FusionRescale = Annotated[
    float | None, _sampling(f"How much of the contrast that the weights add is taken back. {_AS_TRAINED}", min=0, max=1)
]
SegmentLength = Annotated[int | None, _sampling(f"New frames made together. {_AS_TRAINED}", min=1)]
History = Annotated[int | None, _sampling(f"Frames before that are shown to each segment. {_AS_TRAINED}", min=0)]
StartLevel = Annotated[
    float | None, _sampling(f"Noise level to begin at; below 1 from the posed source. {_AS_TRAINED}", min=0.05, max=1)
]
Detail = Annotated[
    float, _sampling("Fine detail of the posed source in the result, where they agree; 0: none.", min=0, max=1)
]
HistoryNoise = Annotated[float | None, _sampling(f"Noise added to them. {_AS_TRAINED}", min=0, max=1)]
