"""TensorBoard: a folder for each phase, shown by `tensorboard --logdir RUN/track/tensorboard`."""

# The library, which need not be installed, ships no types.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingModuleSource=false
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agito.protocols import Point, TrackedRun


class TensorBoard:
    """Tags are the names of `metrics.jsonl`; steps that are taken again replace what was there."""

    def __init__(self) -> None:
        self._new: Any = None
        self._writers: dict[str, Any] = {}
        self._run: TrackedRun

    def open(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        self._run, self._new = run, SummaryWriter
        if not (run.folder / "recipe").exists():
            text = json.dumps(run.recipe, indent=2, ensure_ascii=False)
            self._writer("recipe").add_text("recipe", f"```json\n{text}\n```", 0)
            self._writers.pop("recipe").close()

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                self._writer(point.phase).add_scalar(name, value, point.step, point.at)
        for writer in self._writers.values():
            writer.flush()

    def rewind(self, phase: str, step: int) -> None:
        """By a file that says from where on the earlier ones count for nothing."""
        if not (self._run.folder / phase).exists():
            return
        if phase in self._writers:
            self._writers.pop(phase).close()
        self._writers[phase] = self._new(str(self._run.folder / phase), purge_step=step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, phase: str) -> Any:
        if phase not in self._writers:
            self._writers[phase] = self._new(str(self._run.folder / phase))
        return self._writers[phase]
