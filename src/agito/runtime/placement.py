"""Where workers run: on this machine, or wherever a cluster has room."""

from __future__ import annotations

from typing import Literal

from agito.errors import BadRecipe
from agito.runtime.pipes import launch
from agito.runtime.transport import Launch


def launcher(on: Literal["local", "ray"], device: str) -> Launch:
    """Raises `BadRecipe` where what it needs is not installed."""
    if on == "local":
        return launch
    try:
        from agito.runtime.ray_actors import RayLaunch
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise BadRecipe("compute.on=ray: Ray is not installed: pip install 'agito[ray]'") from None
    return RayLaunch(gpus=0.0 if device == "cpu" else 1.0)
