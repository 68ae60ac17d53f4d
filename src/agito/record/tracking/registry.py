"""Trackers by name, or by `path.py:Class` from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import cast

from agito import plugins
from agito.errors import BadRecipe
from agito.protocols import Tracker

_BUNDLED = {
    "tensorboard": "agito.record.tracking.tensorboard:TensorBoard",
    "wandb": "agito.record.tracking.weights_and_biases:WeightsAndBiases",
}
_NEEDS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_MEMBERS = ("open", "log", "rewind", "close")


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def load(name: str) -> Tracker:
    """Raises `NotFound` for an unknown name, a missing file or class; `BadRecipe` for a class that is no
    tracker, for one that fails, and for a library that is not installed.
    """
    library = _NEEDS.get(name)
    if library is not None and not _is_installed(library):
        raise BadRecipe(f"track.to={name}: {library} is not installed: pip install 'agito[track]'")
    return cast("Tracker", plugins.make("tracker", name, _BUNDLED, _MEMBERS, BadRecipe))


def require(names: Sequence[str]) -> None:
    """Before anything is made. Raises as `load`."""
    for name in names:
        load(name)


def _is_installed(library: str) -> bool:
    """A folder of that name, such as `wandb` leaves behind, is no library."""
    spec = find_spec(library)
    return spec is not None and spec.origin is not None


def folder_name(name: str) -> str:
    """Of its folder in the run's `track`."""
    return name.rpartition(":")[2]
