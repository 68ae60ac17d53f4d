"""A shop, a forum and forms in a browser: find the page, fill it in correctly, leave nothing else behind."""

from __future__ import annotations

from agito.envs.web.env import TextWebEnvironment, WebEnvironment

__all__ = ["TextWebEnvironment", "WebEnvironment"]
