"""An OpenAI-compatible server over token capture: anybody's harness. See docs/gateway.md."""

from __future__ import annotations

from agito.gateway.api_request import Answer, Ask, Refused
from agito.gateway.app import Gateway
from agito.gateway.conversations import Conversations, Terms
from agito.gateway.server import listening

__all__ = ["Answer", "Ask", "Conversations", "Gateway", "Refused", "Terms", "listening"]
