"""What is known about a run while it goes on: phases, steps, success, pace. No terminal in here."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agito.recipe import Recipe

_LAST_STEPS = 3  # success of RL is the mean over so many
_MIN_DONE = 3  # before a pace is believed


class Mark(StrEnum):
    """Where a phase stands."""

    TO_COME = "to come"
    RUNNING = "running"
    DONE = "done"
    EARLIER = "earlier"  # before this process began


@dataclass(slots=True)
class Phase:
    """One stage of a run and what it has come to."""

    name: str
    title: str
    unit: str
    total: int
    done: int = 0
    mark: Mark = Mark.TO_COME
    began: float = 0.0
    took_s: float = 0.0
    tokens: float = 0.0
    num: float = 0.0
    successes: float = 0.0
    loss: float = math.nan
    recent: deque[tuple[float, float]] = field(
        default_factory=lambda: deque[tuple[float, float]](maxlen=_LAST_STEPS)
    )
    penalised: int = 0  # attempts whose reward was not believed
    void: int = 0
    has_alarm: bool = False
    meters: str = ""  # of the last step, where roles overlap
    curve: list[float] = field(default_factory=list[float])  # success of every step
    first: int = 0  # steps that were done before this process began

    @property
    def success(self) -> float:
        """NaN before there is any. In RL the mean over the last steps."""
        num, successes = (
            (sum(column) for column in zip(*self.recent, strict=True))
            if self.recent
            else (self.num, self.successes)
        )
        return successes / num if num else math.nan

    def tokens_per_s(self, now: float) -> float:
        """Sampled, or in imitation trained on; NaN where there are none."""
        spent_s = self.spent_s(now)
        return self.tokens / spent_s if self.tokens and spent_s > 0 else math.nan

    def spent_s(self, now: float) -> float:
        return now - self.began if self.mark is Mark.RUNNING else self.took_s

    def left_s(self, now: float) -> float:
        """At the pace so far; NaN before there is one."""
        here = self.done - self.first
        if self.mark is not Mark.RUNNING or here < min(_MIN_DONE, self.total - self.first) or not here:
            return math.nan
        return self.spent_s(now) / here * (self.total - self.done)


class RunProgress:
    """A `job.Watcher` that remembers. `first` says how many steps of a phase an earlier process did."""

    def __init__(
        self,
        phases: Iterable[Phase],
        *,
        first: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.began = clock()
        self.phases = {phase.name: phase for phase in phases}
        for name, steps in (first or {}).items():
            if name in self.phases:
                self.phases[name].first = steps
        self.current: Phase | None = None
        self.trouble = ""  # the last worker that was lost
        self.notes: list[str] = []

    @property
    def has_begun(self) -> bool:
        return any(phase.mark is not Mark.TO_COME for phase in self.phases.values())

    @property
    def now(self) -> float:
        return self._clock()

    def phase(self, name: str, total: int) -> None:
        self.finish()
        is_planned = name in self.phases
        phase = self.phases.setdefault(name, Phase(name, name, "", total))
        if phase.mark is Mark.TO_COME:
            phase.began, phase.done = self.now, phase.first
        phase.mark, phase.total = Mark.RUNNING, total
        for earlier in self.phases.values():
            if earlier is phase or not is_planned:
                break
            earlier.mark = Mark.EARLIER if earlier.mark is Mark.TO_COME else earlier.mark
        self.current = phase

    def advance(self, figures: Mapping[str, float]) -> None:
        phase = self.current
        assert phase is not None, "advance before any phase"
        phase.done += 1
        phase.tokens += figures.get("tokens/sampled_num", figures.get("sft/tokens", 0.0))
        phase.loss = figures.get("sft/loss_nats", phase.loss)
        phase.penalised += int(figures.get("monitor/quarantined_num", 0.0))
        phase.void += int(figures.get("attempt/void_num", 0.0)) + (
            "success/one" in figures and math.isnan(figures["success/one"])
        )
        phase.has_alarm = phase.has_alarm or figures.get("monitor/alarm", 0.0) > 0
        if "trainer/idle_ratio" in figures:
            phase.meters = (
                f"trainer idle {figures['trainer/idle_ratio']:.0%}, gated "
                f"{figures['trainer/gate_wait_ratio']:.0%}; "
                f"engine busy {figures['engine/busy_ratio']:.0%}; tokens up to "
                f"{figures.get('age/max_versions', 0.0):.0f} versions old"
            )
        if "success/num" in figures:
            num, successes = figures["success/num"], figures.get("success/successes", 0.0)
            phase.recent.append((num, successes))
            phase.curve.append(successes / num if num else math.nan)
        elif math.isfinite(reward := figures.get("reward/mean", math.nan)):  # one attempt
            phase.num += 1
            phase.successes += figures.get("success/one", reward) >= 1.0

    def recover(self, why: str, step: int) -> None:
        """What runs is done again, RL from `step` on."""
        self.trouble = f"{why}; going on from {f'RL step {step}' if step else 'the last checkpoint'}"
        phase = self.current
        if phase is not None and phase.name == "rl":
            del phase.curve[max(step - phase.first, 0) :]
            phase.done = step
        elif phase is not None:
            phase.done, phase.num, phase.successes = 0, 0.0, 0.0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        """The phase that runs is done."""
        if self.current is not None:
            self.current.took_s, self.current.mark, self.current = (
                self.current.spent_s(self.now),
                Mark.DONE,
                None,
            )

    def left_s(self) -> float:
        """Of the whole run; NaN until every phase to come can be judged by one that has been."""
        total = self.current.left_s(self.now) if self.current else 0.0
        for phase in self.phases.values():
            if phase.mark is Mark.TO_COME:
                total += self._expected_s(phase)
        return total

    def _expected_s(self, phase: Phase) -> float:
        before = self.phases.get("before")
        if phase.name == "baselines":
            return 0.0  # scripts are quick, and nobody counts them in advance
        if (
            phase.name not in ("after", "structural")
            or before is None
            or before.mark is not Mark.DONE
            or not before.done
        ):
            return math.nan
        return before.took_s / before.done * phase.total


def planned(recipe: Recipe) -> list[Phase]:
    """The phases of a run, in order, with what is known of their sizes in advance."""
    sft, evaluation = recipe.sft, recipe.eval
    sizes = {
        "survey": ("vocabulary", "episodes", sft.survey),
        "sft": ("imitation", "steps", sft.epochs * sft.demos // sft.batch),
        "before": ("held out, before", "tasks", evaluation.tasks),
        "rl": ("reinforcement", "steps", recipe.rl.steps),
        "after": ("held out, after", "tasks", evaluation.tasks),
        "structural": ("other structure", "tasks", evaluation.structural_tasks),
        "baselines": ("baselines", "tasks", evaluation.baseline_tasks),
    }
    return [Phase(name, title, unit, total) for name, (title, unit, total) in sizes.items() if total]


def clock_text(seconds: float) -> str:
    """`1:05`, `2:00:00`; empty when it is not known."""
    if not math.isfinite(seconds):
        return ""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
