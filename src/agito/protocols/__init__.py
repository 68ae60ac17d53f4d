"""The protocols that environments, harnesses, engines, trainers and sandboxes implement.

Two surfaces separate a policy from a world. `Session` is all that a harness can reach; `Control` belongs to
the trusted side and is never handed to a harness.
"""

from __future__ import annotations

from agito.protocols.engine import Engine, FirstToken, Row, Sampled, SampleRequest
from agito.protocols.harness import MAIN, Agent, AgentSpec, Harness
from agito.protocols.learning import Credit, StepStats, Trainer
from agito.protocols.optional import (
    Answered,
    Finite,
    Informed,
    Isolated,
    Measure,
    Measured,
    Ranged,
    Sourced,
    TeamDemonstrated,
    Unscripted,
    Validated,
)
from agito.protocols.renderer import Renderer
from agito.protocols.sandbox import (
    OpensPool,
    Result,
    Sandbox,
    SandboxPool,
    SandboxSpec,
    Service,
    Standing,
    WarmPython,
    seen_at,
)
from agito.protocols.thinking import (
    AsksEffort,
    ShowsDifficulty,
    ThinkingRenderer,
    ThinksAhead,
    Thought,
    Thoughtful,
    ThoughtfulCall,
)
from agito.protocols.tracking import Point, TrackedRun, Tracker
from agito.protocols.world import (
    OPEN_LOOP,
    Control,
    Environment,
    ForkedSession,
    ForkingSession,
    Script,
    ScriptFactory,
    Session,
    TeamScript,
    WorldSnapshot,
)

__all__ = [
    "MAIN",
    "Agent",
    "AgentSpec",
    "Answered",
    "AsksEffort",
    "Control",
    "Credit",
    "Engine",
    "Environment",
    "Finite",
    "FirstToken",
    "ForkedSession",
    "ForkingSession",
    "Harness",
    "Informed",
    "Isolated",
    "Measure",
    "Measured",
    "OPEN_LOOP",
    "Point",
    "Ranged",
    "Renderer",
    "Result",
    "Row",
    "SampleRequest",
    "Sampled",
    "Sandbox",
    "SandboxPool",
    "SandboxSpec",
    "OpensPool",
    "WarmPython",
    "seen_at",
    "Script",
    "ScriptFactory",
    "Service",
    "Session",
    "ShowsDifficulty",
    "Sourced",
    "Standing",
    "StepStats",
    "TeamDemonstrated",
    "TeamScript",
    "ThinkingRenderer",
    "ThinksAhead",
    "Thought",
    "Thoughtful",
    "ThoughtfulCall",
    "TrackedRun",
    "Tracker",
    "Trainer",
    "Unscripted",
    "Validated",
    "WorldSnapshot",
]
