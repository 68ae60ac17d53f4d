"""Meters of a step's thinking: what each effort came to, and signs that the price is evaded or overdone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agito.learning.leaks import leaked
from agito.learning.modes import Modes, effort_of, modes_of
from agito.record.trajectories import is_success
from agito.types import Attempt, Effort, Group, Mode, mean

COLLAPSED = 0.02  # a mode that is less probable than this is given up


def effort_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Success and thinking at each effort, where it was asked for. At `auto` they are what the policy's own
    choice of a mode makes of them, and stand beside those of either mode."""
    by_effort = dict[Effort, list[Group]]()
    for group in groups:
        asked = [
            effort_of(each.trajectory)
            for each in group.trusted
            if any(turn.think_budget is not None for turn in each.trajectory.turns)
        ]
        if asked:
            by_effort.setdefault(asked[0], []).append(group)
    found = dict[str, float]()
    for effort, own in sorted(by_effort.items()):
        attempts = [each for group in own for each in group.trusted]
        chosen = modes_of(own) if effort is Effort.AUTO else []
        for name, value in _MEASURED.items():
            values = [each.mean(value) for each in chosen] or [value(each) for each in attempts]
            found[f"effort/{effort}_{name}"] = mean(values)
        found |= {f"effort/{effort}_{name}": each for name, each in _guards(attempts).items()}
        found |= _modes(chosen) if chosen else {}
    return found


def _guards(attempts: Sequence[Attempt]) -> dict[str, float]:
    """`budget_ratio`: turns whose thinking was stopped by the budget; it rises where thoughts grow to fit it.
    `failed_length_ratio`: what failed attempts think, over what solved ones do; it falls where failing
    briefly pays."""
    turns = [turn for each in attempts for turn in each.trajectory.turns if not turn.continues]
    full = [turn.think_budget is not None and turn.num_thought >= turn.think_budget > 0 for turn in turns]
    solved = mean(_thought(each) for each in attempts if is_success(each))
    failed = mean(_thought(each) for each in attempts if not is_success(each))
    ratio = failed / solved if solved else float("nan")
    found = {"budget_ratio": mean(map(float, full))}
    return found | ({"failed_length_ratio": ratio} if ratio == ratio else {})


def _modes(chosen: Sequence[Modes]) -> dict[str, float]:
    chances = [each.chance(Mode.THINK) for each in chosen]
    found = {
        "effort/auto_think_probability_mean": mean(chances),
        # groups in which the policy all but never chooses one of the modes
        "effort/auto_decided_ratio": mean(float(not COLLAPSED <= each <= 1 - COLLAPSED) for each in chances),
    }
    for mode in Mode:
        own = [each for modes in chosen for each in modes.attempts[mode]]
        if own:
            found[f"effort/auto_{mode}_success_ratio"] = mean(map(_success, own))
            found[f"effort/auto_{mode}_utility_mean"] = mean(map(_utility, own))
    return found


def _success(attempt: Attempt) -> float:
    return float(bool(is_success(attempt)))


def _thought(attempt: Attempt) -> float:
    return float(sum(turn.num_thought for turn in attempt.trajectory.turns))


def _leaked(attempt: Attempt) -> float:
    return float(leaked(attempt.trajectory))


def _utility(attempt: Attempt) -> float:
    return attempt.utility


_MEASURED: Mapping[str, Callable[[Attempt], float]] = {
    "success_ratio": _success,
    "think_tokens_mean": _thought,
    "leaked_tokens_mean": _leaked,
    "utility_mean": _utility,
}
