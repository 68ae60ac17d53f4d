"""Messages to tokens and back; nothing is ever tokenised twice."""

from __future__ import annotations

from collections.abc import Sequence

from agito.protocols import Renderer
from agito.render import compact, natural
from agito.render.chat import ChatRenderer
from agito.render.compact import CompactRenderer
from agito.render.hf_folder import read_chat
from agito.render.natural import NaturalRenderer
from agito.render.template import UnsupportedTemplate
from agito.render.vocabulary import Vocabulary, learn
from agito.types import Dialect, Event, Task

__all__ = [
    "ChatRenderer",
    "CompactRenderer",
    "NaturalRenderer",
    "UnsupportedTemplate",
    "Vocabulary",
    "learn",
    "read_chat",
    "renderer",
    "texts_of",
]


def renderer(dialect: Dialect, vocabulary: Vocabulary) -> Renderer:
    return CompactRenderer(vocabulary) if dialect is Dialect.COMPACT else NaturalRenderer(vocabulary)


def texts_of(dialect: Dialect, task: Task, events: Sequence[Event]) -> list[str]:
    """What is said and read in an episode, for a vocabulary to be learned from."""
    return (compact if dialect is Dialect.COMPACT else natural).texts_of(task, events)
