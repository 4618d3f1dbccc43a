"""Import `svdp` from this checkout without putting the checkout itself on sys.path (its folders have generic names)."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]  # `python -m pytest` puts it there
if importlib.util.find_spec("svdp") is None:  # an (editable) install wins
    spec = importlib.util.spec_from_file_location("svdp", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules["svdp"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["svdp"])


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Development data beside the checkout; tests that use it skip, saying so, when it is not there."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("development data ../shared/data is not on this machine")
    return path


@pytest.fixture(scope="session")
def assets_dir() -> Path:
    """Bundled model and example media."""
    return ROOT / "assets"
