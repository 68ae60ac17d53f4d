"""The log of an `AsyncScheduler`: numbered events and decisions, one JSON object a line. The same events must
lead to the same decisions.

A line is `[number, name, value]`. The first is `flow`, with the rules and the start, repeated after every
resume. Then follow events (`issue`, `finished`, `trained`, `published`) and decisions (`release`, `batch`) in
order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from agito.errors import Diverged, NotFound
from agito.scheduling.async_scheduler import AsyncScheduler, Batch, SchedulerRules
from agito.scheduling.attempt_queue import Outcome
from agito.types import AttemptId, Json


class LoggedScheduler(AsyncScheduler):
    """An `AsyncScheduler` that logs its events and decisions."""

    def __init__(
        self,
        rules: SchedulerRules,
        *,
        version: int = 0,
        reissued: Sequence[int] = (),
        write: Callable[[str], object],
    ) -> None:
        self._write, self._number = write, 0
        self._note("flow", {"rules": asdict(rules), "version": version, "reissued": list(reissued)})
        super().__init__(rules, version=version, reissued=reissued)

    def issue(self, groups: Sequence[int]) -> None:
        self._note("issue", list(groups))
        super().issue(groups)

    def finished(self, attempt: AttemptId, reward: Outcome) -> None:
        self._note("finished", [str(attempt), reward])
        super().finished(attempt, reward)

    def trained(self) -> None:
        self._note("trained", None)
        super().trained()

    def published(self, version: int) -> None:
        self._note("published", version)
        super().published(version)

    def release(self) -> tuple[AttemptId, ...]:
        released = super().release()
        if released:
            self._note("release", [str(attempt) for attempt in released])
        return released

    def batch(self) -> Batch | None:
        batch = super().batch()
        if batch is not None:
            self._note("batch", _batch_json(batch))
        return batch

    def _note(self, name: str, value: Json) -> None:
        self._write(json.dumps([self._number, name, value]) + "\n")
        self._number += 1


def replay(lines: Iterable[str]) -> dict[str, int]:
    """Feeds the events to a new `AsyncScheduler` and compares its decisions; returns how many lines of each
    name there were.

    Raises `Diverged` at the first different decision, with its number, and `NotFound` for a log that does not
    begin with a flow.
    """
    flow: AsyncScheduler | None = None
    counts: dict[str, int] = {}
    for line in lines:
        number, name, value = json.loads(line)
        counts[name] = counts.get(name, 0) + 1
        if name == "flow":
            flow = AsyncScheduler(
                SchedulerRules(**value["rules"]), version=value["version"], reissued=value["reissued"]
            )
            continue
        if flow is None:
            raise NotFound(f"event {number} ({name}): the log must begin with a flow")
        match name:
            case "issue":
                flow.issue(value)
            case "finished":
                flow.finished(AttemptId.parse(value[0]), value[1])
            case "trained":
                flow.trained()
            case "published":
                flow.published(value)
            case _:
                decided = _decide(flow, name)
                if decided != value:
                    raise Diverged(
                        f"event {number}: the log says {name} {value}, the schedule decides {decided}"
                    )
    return counts


def _decide(flow: AsyncScheduler, name: str) -> Json:
    if name == "release":
        return [str(attempt) for attempt in flow.release()]
    batch = flow.batch()
    return None if batch is None else _batch_json(batch)


def _batch_json(batch: Batch) -> dict[str, Json]:
    return {"number": batch.number, "groups": list(batch.groups), "zero_variance": list(batch.zero_variance)}
