"""Weights & Biases, offline unless the recipe says otherwise: `wandb sync --append` sends it later."""

# The library need not be installed.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from agito.protocols import Point, TrackedRun
from agito.record.files import write_atomically


class WeightsAndBiases:
    """One id over every resume. Steps that are taken again stand as they were first: what has been logged
    cannot be taken back.
    """

    def __init__(self) -> None:
        self._session: Any = None
        self._run: TrackedRun
        self._last: dict[str, int] = {}  # step by phase
        self._known: set[str] = set()

    def open(self, run: TrackedRun) -> None:
        import wandb

        self._run = run
        state = run.folder / "steps.json"
        self._last = json.loads(state.read_bytes()) if state.exists() else {}
        self._session = wandb.init(
            project=run.project,
            name=run.name,
            id=hashlib.sha256(str(run.folder).encode()).hexdigest()[:16],
            resume="allow" if run.online else None,
            mode="online" if run.online else "offline",
            dir=str(run.folder),
            config=dict(run.recipe),
            # numbers and the recipe, nothing of the machine, the code or the terminal
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                save_code=False,
                silent=True,
                host="-",
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.phase in ("sft", "rl"):
                if point.step <= self._last.get(point.phase, -1):
                    continue
                self._last[point.phase] = point.step
            axis = f"{point.phase}/step"
            if point.phase not in self._known:
                self._known.add(point.phase)
                self._session.define_metric(axis)
                self._session.define_metric(f"{point.phase}/*", step_metric=axis)
            named = {f"{point.phase}/{name}": value for name, value in point.values.items()}
            self._session.log({**named, axis: point.step})
        write_atomically(self._run.folder / "steps.json", json.dumps(self._last).encode())

    def rewind(self, phase: str, step: int) -> None:
        pass

    def close(self) -> None:
        self._session.finish()
