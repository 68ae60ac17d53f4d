"""The embedded engine in each of its implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agito.models import Qwen3
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.embedded.steps import RecordedSteps


@dataclass
class Rerun:
    """A stand-in for graph recording on a device without it."""

    replay: Callable[[], None]


@pytest.fixture(params=["compiled", "torch", "replayed"])
def kind(request: pytest.FixtureRequest) -> None:
    """Sets the module's `new_engine`: compiled code, torch, and steps in the shapes that a GPU records."""

    def new_engine(model: Qwen3, *, rows: int = 4, context: int = 96, **how: Any) -> EmbeddedEngine:
        device, steps = model.head_weight.device, None
        if request.param == "replayed" and device.type == "cpu":
            steps = RecordedSteps(
                slots=rows, context=context, device=device, record=lambda run, _: Rerun(replay=run)
            )
        return EmbeddedEngine(
            model, rows=rows, context=context, native=request.param == "compiled", steps=steps, **how
        )

    request.module.new_engine = new_engine
