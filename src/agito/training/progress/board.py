"""What is known about a run while it goes on: phases, steps, success, pace. No terminal in here."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from agito.recipe import Recipe
from agito.record.events import (
    EvaluationFinished,
    Event,
    Figures,
    Level,
    Notice,
    PhaseStarted,
    Progress,
    Recovered,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    StepFinished,
)

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
    """The state of a run, computed from its events alone."""

    def __init__(self, phases: Iterable[Phase], *, clock: Callable[[], float] = time.time) -> None:
        """`clock` is that of the events: Unix time."""
        self._clock = clock
        self._plan = tuple(phases)
        self._begin(clock())

    def _begin(self, at: float) -> None:
        self.began = self.at = at  # `at`: when the last event was
        self.phases = {each.name: Phase(each.name, each.title, each.unit, each.total) for each in self._plan}
        self.current: Phase | None = None
        self.trouble = ""  # the last worker that was lost
        self.notes: list[str] = []
        self._has_ended = False

    @property
    def has_begun(self) -> bool:
        return any(phase.mark is not Mark.TO_COME for phase in self.phases.values())

    @property
    def now(self) -> float:
        """Once it has ended, the time of the last event."""
        return self.at if self._has_ended else self._clock()

    def end(self) -> None:
        """Nothing more comes: the clock stands still."""
        self._has_ended = True

    def handle(self, event: Event) -> None:
        self.at = event.at
        if isinstance(event, RunFinished | RunStopped | RunFailed):
            self.end()
        match event:
            case RunStarted():
                self._begin(event.at)
            case RunResumed():
                self._begin(event.at)
                if "rl" in self.phases:
                    self.phases["rl"].first = event.step
            case PhaseStarted():
                self._start(event.phase, event.total)
            case Progress() if self.current is not None:
                _add_attempts(self.current, event)
            case StepFinished() if self.current is not None:
                _add_step(self.current, event)
            case Recovered():
                self._recover(event)
            case Notice() if event.level is not Level.ALARM:  # an alarm is in the metrics of its step, too
                self.notes.append(event.text)
            case EvaluationFinished() | RunFinished():
                self._finish()
            case _:
                pass

    def _start(self, name: str, total: int) -> None:
        self._finish()
        is_planned = name in self.phases
        phase = self.phases.setdefault(name, Phase(name, name, "", total))
        if phase.mark is Mark.TO_COME:
            phase.began, phase.done = self.at, phase.first
        phase.mark, phase.total = Mark.RUNNING, total
        for earlier in self.phases.values():
            if earlier is phase or not is_planned:
                break
            earlier.mark = Mark.EARLIER if earlier.mark is Mark.TO_COME else earlier.mark
        self.current = phase

    def _recover(self, event: Recovered) -> None:
        """What runs is done again, RL from the event's step on."""
        step = event.step
        self.trouble = f"{event.why}; going on from {f'RL step {step}' if step else 'the last checkpoint'}"
        phase = self.current
        if phase is not None and phase.name == "rl":
            del phase.curve[max(step - phase.first, 0) :]
            phase.done = step
        elif phase is not None:
            phase.done, phase.num, phase.successes = 0, 0.0, 0.0

    def _finish(self) -> None:
        """The phase that runs is done."""
        if self.current is not None:
            self.current.took_s, self.current.mark, self.current = (
                self.current.spent_s(self.at),
                Mark.DONE,
                None,
            )

    def left_s(self) -> float:
        """Of the whole run; NaN until every phase to come can be judged by one that has been, and when
        nothing goes on.
        """
        if self.current is None or self._has_ended:
            return math.nan
        total = self.current.left_s(self.now)
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


def _add_attempts(phase: Phase, event: Progress) -> None:
    """Of a phase that counts attempts."""
    sums = event.metrics
    phase.done = event.done
    phase.num, phase.successes = sums.get("success/num", 0.0), sums.get("success/successes", 0.0)
    phase.tokens = sums.get("tokens/sampled_num", 0.0)
    phase.void = int(sums.get("attempt/void_num", 0.0))


def _add_step(phase: Phase, event: StepFinished) -> None:
    """Of SFT or RL."""
    metrics = event.metrics
    phase.done = event.step + 1
    phase.tokens += metrics.get("tokens/sampled_num", metrics.get("sft/tokens", 0.0))
    phase.loss = metrics.get("sft/loss_nats", phase.loss)
    phase.penalised += int(metrics.get("monitor/quarantined_num", 0.0))
    phase.void += int(metrics.get("attempt/void_num", 0.0))
    phase.has_alarm = phase.has_alarm or metrics.get("monitor/alarm", 0.0) > 0
    if "trainer/idle_ratio" in metrics:
        phase.meters = _meters(metrics)
    if "success/num" in metrics:
        num, successes = metrics["success/num"], metrics.get("success/successes", 0.0)
        phase.recent.append((num, successes))
        phase.curve.append(successes / num if num else math.nan)


def _meters(metrics: Figures) -> str:
    return (
        f"trainer idle {metrics['trainer/idle_ratio']:.0%}, gated {metrics['trainer/gate_wait_ratio']:.0%}; "
        f"engine busy {metrics['engine/busy_ratio']:.0%}; "
        f"tokens up to {metrics.get('age/max_versions', 0.0):.0f} versions old"
    )


def planned(recipe: Recipe) -> list[Phase]:
    """The phases of a run, in order, with what is known of their sizes in advance."""
    sft, evaluation = recipe.sft, recipe.eval
    sizes = {
        "tokenizer": ("vocabulary", "episodes", sft.tokenizer_episodes),
        "sft": ("imitation", "steps", sft.epochs * sft.demos // sft.batch),
        "before": ("held out, before", "tasks", evaluation.tasks),
        "rl": ("reinforcement", "steps", recipe.rl.steps),
        "after": ("held out, after", "tasks", evaluation.tasks),
        "structural": ("other structure", "tasks", evaluation.structural_tasks),
        "baselines": ("baselines", "tasks", evaluation.baseline_tasks),
    }
    return [Phase(name, title, unit, total) for name, (title, unit, total) in sizes.items() if total]


def loading(recipe: Recipe) -> str:
    """What a run begins with before its first phase, which takes long for a pre-trained model; else empty."""
    return f"loading the model {recipe.model.path}" if recipe.model.path else ""


def clock_text(seconds: float) -> str:
    """`1:05`, `2:00:00`; empty when it is not known."""
    if not math.isfinite(seconds):
        return ""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
