"""The numbers of the report: titles, units, definitions and sources."""

from __future__ import annotations

from .redetection import MEASURES
from .report import Column

MOTION, ERRORS, IDENTITY = "motion: correlation with the driver", "motion: error", "identity"
TRUTH, TIME = "against the true frames", "over time"


def _error_column(name: str, unit: str) -> Column:
    return Column(
        key=f"{name}_error",
        title=name.replace("_", " "),
        group=ERRORS,
        unit="°" if unit == "degrees" else "",
        better="less",
        about=f"mean absolute difference to the driver ({unit}), both found anew in the finished frames",
    )


_MOTION = [
    Column(
        key="faces",
        title="faces found",
        percent=True,
        digits=0,
        group=MOTION,
        better="more",
        about="share of the result's frames in which the detector finds a face",
    ),
    *(
        Column(
            key=measure.name,
            title=measure.name.replace("_", " "),
            group=MOTION,
            better="more",
            about="Pearson's r with the driver over the frames in which both faces are found",
        )
        for measure in MEASURES
    ),
]
_IDENTITY = [
    Column(
        key="csim_source",
        title="CSIM source",
        group=IDENTITY,
        better="more",
        about="cosine similarity of identity embeddings of result frames and source, mean over frames",
    ),
    Column(
        key="csim_driver",
        title="CSIM driver",
        group=IDENTITY,
        better="less",
        about="likewise to the driver's mean embedding: how much of the driver's looks came through",
    ),
    Column(
        key="csim_margin",
        title="source over driver",
        group=IDENTITY,
        better="more",
        about="CSIM to the source less CSIM to the driver, mean over frames",
    ),
    Column(
        key="csim_kept",
        title="kept over length",
        group=IDENTITY,
        better="more",
        about="CSIM to the source over the last 8 frames divided by that over frames 6 to 13",
    ),
]
_TRUTH = [
    Column(
        key="psnr",
        title="PSNR",
        digits=1,
        group=TRUTH,
        unit="dB",
        better="more",
        about="of the squares at the model's resolution, mean over frames",
    ),
    Column(key="ssim", title="SSIM", digits=3, group=TRUTH, better="more", about="Wang et al. 2004, likewise"),
    Column(
        key="l1",
        title="L1",
        digits=3,
        group=TRUTH,
        better="less",
        about="mean absolute difference, full range 1, likewise",
    ),
    Column(
        key="tof",
        title="tOF",
        group=TRUTH,
        unit="px",
        better="less",
        about="length of the difference of optical flows (Chu et al. 2020), mean over the squares' pixels and frames",
    ),
    Column(
        key="csim_target",
        title="CSIM target",
        group=TRUTH,
        better="more",
        about="cosine similarity of identity embeddings of each result frame and its true frame",
    ),
]
_TIME = [
    Column(
        key="sharpness",
        title="sharpness",
        group=TIME,
        better="more",
        about="of edges, relative to the source's square: 1 is as sharp, .8 to 1.2 is good (`sharpness`)",
    ),
    Column(
        key="warping_error",
        title="warping error",
        group=TIME,
        unit="1e-3",
        better="less",
        about="squared difference of neighbouring squares after warping, 1000 at full range (Lai et al. 2018)",
    ),
    Column(
        key="seam",
        title="seam ratio",
        group=TIME,
        better="less",
        about="mean absolute change across segment borders over that inside segments, in the squares",
    ),
    Column(
        key="colour_drift",
        title="colour drift",
        group=TIME,
        unit="Delta E",
        better="less",
        about="distance in CIELAB of the mean colour of the last 8 frames from that of frames 6 to 13, in the squares",
    ),
]

COLUMNS = (
    *_MOTION,
    *(_error_column(measure.name, measure.unit) for measure in MEASURES),
    *_IDENTITY,
    *_TRUTH,
    *_TIME,
)
