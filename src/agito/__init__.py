"""Agito trains agents: model, environment and harness, closed into one loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agito.api import evaluate, replay, resume, train

__version__ = "0.1.0"

_API = ("train", "resume", "evaluate", "replay")


def __getattr__(name: str) -> Any:
    """The functions of `agito.api`, loaded when they are first asked for."""
    if name in _API:
        return getattr(import_module("agito.api"), name)
    raise AttributeError(f"module 'agito' has no attribute {name!r}")


__all__ = ["evaluate", "replay", "resume", "train"]
