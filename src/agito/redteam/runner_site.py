"""A real pytest for sandboxes, which see the system's interpreter and none of our packages."""

from __future__ import annotations

import compileall
import importlib.util
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agito.errors import NotFound

FOLDER = ".site"  # relative to the workspace; put it on PYTHONPATH
_PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments")
_MODULES = ("py",)
# subpackages of pygments; the runner loads five of their modules
_MANY = ("lexers", "formatters", "styles", "filters")
_NEEDED = ("__init__.py", "_mapping.py", "python.py", "diff.py", "terminal.py")


@contextmanager
def runner_site() -> Generator[str]:
    """A directory for `SandboxSpec.base` with this interpreter's pytest: pure Python, without unused modules.

    Raises `NotFound` if pytest is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="agito-site-") as name:
        root = Path(name)
        root.chmod(0o755)
        for package in _PACKAGES:
            shutil.copytree(_origin(package).parent, root / FOLDER / package, ignore=_ignore)
        for module in _MODULES:
            shutil.copy(_origin(module), root / FOLDER)
        compileall.compile_dir(root / FOLDER, quiet=2)
        yield name


def _origin(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NotFound(f"{name} is not installed: the weak graders need pytest (pip install pytest)")
    return Path(spec.origin)


def _ignore(folder: str, names: list[str]) -> list[str]:
    is_crowded = Path(folder).name in _MANY and Path(folder).parent.name == "pygments"
    return [name for name in names if name == "__pycache__" or (is_crowded and name not in _NEEDED)]
