"""Messages to tokens and back; nothing is ever tokenised twice."""

from __future__ import annotations

from agito.protocols import Renderer
from agito.render.compact import CompactRenderer
from agito.render.natural import NaturalRenderer
from agito.render.vocabulary import Vocabulary, learn
from agito.types import Dialect

__all__ = ["CompactRenderer", "NaturalRenderer", "Vocabulary", "learn", "renderer"]


def renderer(dialect: Dialect, vocabulary: Vocabulary) -> Renderer:
    return CompactRenderer(vocabulary) if dialect is Dialect.COMPACT else NaturalRenderer(vocabulary)
