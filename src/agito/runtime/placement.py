"""Where workers run: on this machine, or on a cluster."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, TypeAlias

from agito.errors import BadRecipe
from agito.runtime.local_process import launch
from agito.runtime.transport import Launch

Place: TypeAlias = Literal["local", "ray"]


def require_installed(on: Place) -> None:
    """Raises `BadRecipe` when a package is missing."""
    if on == "ray" and find_spec("ray") is None:
        raise BadRecipe("compute.on=ray: Ray is not installed: pip install 'agito[ray]'")


def launcher(on: Place, device: str) -> Launch:
    """Raises as `require_installed`."""
    require_installed(on)
    if on == "local":
        return launch
    from agito.runtime.ray_actors import RayLaunch

    return RayLaunch(gpus=0.0 if device == "cpu" else 1.0)
