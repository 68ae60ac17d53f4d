"""Contract suites for the four seams, and fakes that satisfy them: for our own tests and for yours."""

from __future__ import annotations

from agito.testing.contract import Contract, Violation
from agito.testing.engine import EngineContract
from agito.testing.engines import Exchange, FakeEngine, ReplayEngine
from agito.testing.environment import EnvironmentContract
from agito.testing.fakes import FakeEnvironment, FakeSession
from agito.testing.harness import HarnessContract
from agito.testing.renderers import ByteRenderer
from agito.testing.sandbox import SandboxContract

__all__ = [
    "ByteRenderer",
    "Contract",
    "EngineContract",
    "EnvironmentContract",
    "Exchange",
    "FakeEngine",
    "FakeEnvironment",
    "FakeSession",
    "HarnessContract",
    "ReplayEngine",
    "SandboxContract",
    "Violation",
]
