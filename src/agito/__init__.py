"""Agito trains agents with reinforcement learning: model, environment and harness in one loop.

    import agito

    summary = agito.train("smoke")                # as `agito train smoke`: a new run in runs/smoke
    evaluation = agito.evaluate("runs/smoke")     # as `agito eval runs/smoke`
    curve = agito.effort_curve("runs/think")      # as `agito eval runs/think --effort all`
    both = agito.replay("runs/smoke", "1000000.0", phase="after")
    summary = agito.resume("runs/smoke")          # continues an interrupted run

Other public modules: `agito.types`, the records; `agito.protocols`, the interfaces; `agito.errors`, every
error raised on purpose; `agito.testing`, contract suites and fakes for your own environments and harnesses;
`agito.worlds`, the components of worlds. On the command line: `agito --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agito.api import effort_curve, evaluate, replay, resume, train

__version__ = "0.1.0"

_API = ("train", "resume", "evaluate", "effort_curve", "replay")


def __getattr__(name: str) -> Any:
    """The functions of `agito.api`, loaded when they are first asked for."""
    if name in _API:
        return getattr(import_module("agito.api"), name)
    raise AttributeError(f"module 'agito' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user calls, and the names that every module has."""
    return sorted(
        [*_API, *(name for name, value in globals().items() if name.startswith("__") and not callable(value))]
    )


__all__ = ["effort_curve", "evaluate", "replay", "resume", "train"]
