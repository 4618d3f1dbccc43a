"""OpenCV, checked once: several of its packages write into one folder and break each other there."""

import importlib.metadata

from ..errors import UserError

__all__ = ["cv2"]

PACKAGES = (
    "opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless",
)  # fmt: skip
NEEDED = ("resize", "warpAffine", "fillPoly", "INTER_AREA", "BORDER_REFLECT_101")


def _remedy(headless: bool = False) -> str:
    """Commands that leave one whole package: the largest one, since other node packs may need its extra parts."""
    there = [name for name in PACKAGES if _installed(name)]
    kept = "opencv-contrib-python" if any("contrib" in name for name in there) else "opencv-python"
    kept += "-headless" if headless or (there and all("headless" in name for name in there)) else ""
    several = f"{' and '.join(there)} write into one folder and break each other. " if len(there) > 1 else ""
    removed = f"pip uninstall -y {' '.join(there)}, then " if there else ""
    return f"{several}Run, with the Python that runs this: {removed}pip install --no-cache-dir {kept}"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


try:
    import cv2
except ImportError as error:
    raise UserError(f"OpenCV does not start ({error}). {_remedy(headless='libGL' in str(error))}") from error
if missing := [name for name in NEEDED if not hasattr(cv2, name)]:
    raise UserError(f"OpenCV is broken: its module cv2 lacks {', '.join(missing)}. {_remedy()}")
