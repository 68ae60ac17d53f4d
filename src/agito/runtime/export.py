"""A trained policy as a plain Hugging Face folder: for `transformers`, vLLM and other servers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from agito.errors import NotFound
from agito.models.apart import run_module
from agito.record.writable import require_folder
from agito.render import ChatRenderer
from agito.render.chat import KEEPING
from agito.render.tool_formats import FORMATS
from agito.runtime.policy_sources import find, recipe_of, renderer_of

_EXPORT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`serve`: the options with which vLLM serves the folder as the policy was trained."""

    folder: Path
    serve: tuple[str, ...]


def export(path: Path, into: Path) -> Exported:
    """Writes the policy of a run or a checkpoint to the new folder `into`: all weights, an adapter merged in,
    in the precision in which it acted. The folder appears whole or not at all.

    Raises `NotFound`, `CorruptCheckpoint`, `DiskFull`, `UnsupportedTemplate`.
    """
    checkpoint = find(path)
    renderer = renderer_of(checkpoint, recipe_of(checkpoint))
    if into.exists():
        raise NotFound(f"{into}: it is there already; name a new folder")
    require_folder(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.absolute().parent) as room:
        made = Path(room) / "model"
        run_module(
            "agito.runtime.merge",
            [str(checkpoint.absolute()), str(made)],
            deadline_s=_EXPORT_S,
            what="exporting",
        )
        made.rename(into)
    if isinstance(renderer, ChatRenderer):
        return Exported(folder=into, serve=serve_options(renderer, into))
    return Exported(folder=into, serve=_tools("hermes"))


def serve_options(renderer: ChatRenderer, folder: Path | str) -> tuple[str, ...]:
    """With which vLLM reads a model's turns, and keeps its thinking, as its renderer does."""
    kept = renderer.strips_thinking and renderer.keeping_template is not None
    keeping = ("--chat-template", f"{folder}/{KEEPING}") if kept else ()
    return (*_tools(FORMATS[renderer.tool_format].served_as), *keeping)


def _tools(parser: str) -> tuple[str, ...]:
    return ("--enable-auto-tool-choice", "--tool-call-parser", parser)
