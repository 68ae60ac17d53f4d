"""How model families write tool calls; `registry.py` lists the formats."""

from __future__ import annotations

from agito.render.tool_formats.base import Found, ToolFormat
from agito.render.tool_formats.registry import FORMATS

__all__ = ["FORMATS", "Found", "ToolFormat"]
