"""The engine that runs in this process, on any device that torch has; the only part of `engine` that loads
torch.
"""

from agito.sampling.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
