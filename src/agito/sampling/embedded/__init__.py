"""The engine that runs in this process, on any torch device; the only part of `sampling` that loads torch."""

from agito.sampling.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
