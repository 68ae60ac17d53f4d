"""Why a run does not learn: the usual causes, looked for in its meters and in its last attempts.

Each rule reads the last quarter of the RL steps, or five, and has its bound beside it. `metrics.jsonl` and
`record/schema.py` are the only contract; what a run did not measure is not looked for.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq

Row: TypeAlias = Mapping[str, Any]
Curve: TypeAlias = Mapping[str, Any]

_MOST_EPISODES = 3  # of a cause
_MOST_FILES = 5  # of steps, latest first
_LEARNS = 0.1  # rise of success from the first quarter to the last from which on nothing is asked
_HIGH = 0.9  # success that leaves little to learn
_COLUMNS = [
    "group",
    "slot",
    "tries",
    "step",
    "family",
    "level",
    "prompt",
    "end",
    "fault",
    "detail",
    "status",
    "success",
    "reward",
    "num_turns",
    "turns",
    "events",
    "lineage",
]
_OUT_OF_BUDGET = {"turns", "calls", "tokens", "seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """Means over the last steps; `first` over as many at the beginning. A name that was not measured is in
    neither."""

    first: Mapping[str, float]
    last: Mapping[str, float]
    num_steps: int
    num_all: int  # steps so far

    def __getitem__(self, name: str) -> float | None:
        return self.last.get(name)

    def rate(self, which: Mapping[str, float], area: str = "success") -> float | None:
        num = which.get(f"{area}/num")
        return which.get(f"{area}/successes", 0.0) / num if num else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """`seen`: what the meters say. `remedy`: what to change, by recipe key. `shows`: attempts to read."""

    title: str
    seen: str
    remedy: str
    shows: Callable[[Row], bool]


def read_diagnosis(curve: Curve | None, trajectories: Path) -> dict[str, Any] | None:
    """`{"learns", "success", "steps", "total", "causes": [{title, seen, remedy, episodes}]}`, strict JSON;
    None without RL steps."""
    meters = read_meters(curve)
    if meters is None:
        return None
    rows = list(_last_attempts(trajectories))
    begun, now = meters.rate(meters.first), meters.rate(meters.last)
    rises = begun is not None and now is not None and now - begun >= _LEARNS
    causes = [cause for cause in (*_from_meters(meters), *_from_attempts(rows)) if cause is not None]
    return {
        "learns": rises or (now or 0.0) >= _HIGH,
        "success": [begun, now],
        "steps": meters.num_steps,
        "total": meters.num_all,
        "causes": [
            {
                "title": cause.title,
                "seen": cause.seen,
                "remedy": cause.remedy,
                "episodes": [_episode(row) for row in rows if cause.shows(row)][:_MOST_EPISODES],
            }
            for cause in causes
        ],
    }


def read_meters(curve: Curve | None) -> Meters | None:
    if curve is None or not curve["step"]:
        return None
    total = len(curve["step"])
    num = max(1, min(total // 2, max(5, total // 4)))
    values: Mapping[str, Sequence[float | None]] = curve["values"]

    def means(part: slice) -> dict[str, float]:
        known = {name: [each for each in column[part] if each is not None] for name, column in values.items()}
        return {name: sum(column) / len(column) for name, column in known.items() if column}

    return Meters(first=means(slice(0, num)), last=means(slice(-num, None)), num_steps=num, num_all=total)


def _from_meters(meters: Meters) -> Iterator[Cause | None]:
    yield _no_contrast(meters)
    yield _uniform(meters)
    yield _mismatch(meters)
    yield _no_verdicts(meters)
    yield _unheld(meters)


def _no_contrast(meters: Meters) -> Cause | None:
    mixed, rate = meters["group/mixed_ratio"], meters.rate(meters.last)
    if mixed is None or rate is None or mixed >= 0.25:
        return None
    seen = f"Outcomes differ within {mixed:.0%} of the groups; success is {rate:.0%}."
    if rate >= 0.5:
        return Cause(
            title="The tasks are solved",
            seen=seen,
            remedy="Harder tasks: env.levels, env.families; rl.solve_rate leaves solved cells aside.",
            shows=lambda row: bool(row["success"]),
        )
    return Cause(
        title="Whole groups fail alike, so that no attempt is better than its group",
        seen=seen,
        remedy="Easier tasks at first (env.levels), a longer cold start (sft.demos), more attempts at a task "
        "(rl.group_size), partial credit in the verdict.",
        shows=_failed,
    )


def _uniform(meters: Meters) -> Cause | None:
    """A policy that hardly varies while its groups do not differ."""
    name = "policy/entropy_nats"
    entropy, mixed = meters[name], meters["group/mixed_ratio"]
    begun = meters.first.get(name)
    if entropy is None or mixed is None or begun is None or mixed >= 0.5 or entropy >= max(0.02, 0.2 * begun):
        return None
    return Cause(
        title="The policy hardly varies any more",
        seen=f"Entropy fell from {begun:.3f} to {entropy:.3f} nats a token; outcomes differ "
        f"within {mixed:.0%} of the groups.",
        remedy="A lower trainer.rl.lr, rl.temperature of 1 or more, trainer.loss.clip_high further up, fewer "
        "sft.epochs.",
        shows=_failed,
    )


def _mismatch(meters: Meters) -> Cause | None:
    off, ess = meters["policy/log_w_abs_mean_nats"], meters["policy/ess_fraction"]
    if off is None or ess is None or (off < 0.05 and ess > 0.9):
        return None
    return Cause(
        title="Samplers and learner disagree about what was sampled",
        seen=f"Their log-probabilities are {off:.3f} nats a token apart; {ess:.0%} of the samples count.",
        remedy="pipeline.max_staleness = 1, or mode = 'on_policy'; model.dtype = 'float32'; "
        "without staleness it is a bug: trainer.check_on_policy stops at it.",
        shows=lambda _: False,
    )


def _no_verdicts(meters: Meters) -> Cause | None:
    void, num = meters["attempt/void_num"], meters["success/all_num"]
    if void is None or not num or void / num < 0.05:
        return None
    return Cause(
        title="Many attempts have no verdict",
        seen=f"{void / num:.0%} of the attempts are void.",
        remedy="Their causes are below and in `agito replay RUN`; agito envs check ENV finds most of them.",
        shows=lambda row: row["status"] == "void",
    )


def _unheld(meters: Meters) -> Cause | None:
    trained, held = meters.rate(meters.last), meters.rate(meters.last, "eval")
    if trained is None or held is None or trained - held < min(0.25, max(0.1, trained / 2)):
        return None
    return Cause(
        title="What is learned does not carry over to held-out tasks",
        seen=f"Success is {trained:.0%} in training and {held:.0%} on held-out tasks.",
        remedy="More kinds of tasks in the training split, a larger model; the splits may differ in "
        "something that the policy never saw.",
        shows=lambda _: False,
    )


def _from_attempts(rows: Sequence[Row]) -> Iterator[Cause | None]:
    turns = [turn for row in rows for turn in _ends_of_turns(row)]
    yield _share(
        sum(turn["stopped"] == "length" for turn in turns) / max(1, len(turns)),
        0.05,
        title="Turns are cut off before they end",
        seen="{share:.0%} of the turns used up their tokens.",
        remedy="More tokens a turn (the environment's limits), a longer compute.context, or a lower "
        "rl.temperature.",
        shows=lambda row: any(turn["stopped"] == "length" for turn in _ends_of_turns(row)),
    )
    calls = [event for row in rows for event in row["events"]]
    yield _share(
        sum(bool(event["problem"]) for event in calls) / max(1, len(calls)),
        0.05,
        title="Calls cannot be read",
        seen="{share:.0%} of the calls were not understood.",
        remedy="model.tool_format as the model was trained, a longer cold start (sft.demos); agito play "
        "shows what it writes.",
        shows=lambda row: any(event["problem"] for event in row["events"]),
    )
    failed = [row for row in rows if _failed(row)]
    yield _share(
        sum(row["end"] in _OUT_OF_BUDGET for row in failed) / max(1, len(failed)),
        0.5 if len(failed) > len(rows) / 4 else 2.0,
        title="Attempts run out of turns, calls or tokens",
        seen="{share:.0%} of the failed attempts ended at a limit.",
        remedy="Higher limits in the environment, compute.context, or demonstrations that come to an end.",
        shows=lambda row: _failed(row) and row["end"] in _OUT_OF_BUDGET,
    )
    yield _share(
        sum(not row["events"] for row in failed) / max(1, len(failed)),
        0.3 if len(failed) > len(rows) / 4 else 2.0,
        title="Attempts end without having done anything",
        seen="{share:.0%} of the failed attempts made no call.",
        remedy="A cold start that shows calls (sft.demos), a reward that does not pay for leaving.",
        shows=lambda row: _failed(row) and not row["events"],
    )


def _share(
    share: float, bound: float, *, title: str, seen: str, remedy: str, shows: Callable[[Row], bool]
) -> Cause | None:
    if share < bound:
        return None
    return Cause(title=title, seen=seen.format(share=share), remedy=remedy, shows=shows)


def _failed(row: Row) -> bool:
    return row["status"] == "scored" and not row["success"]


def _ends_of_turns(row: Row) -> list[Mapping[str, Any]]:
    """The last stretch of each turn: a budget of thinking cuts off a stretch, and the turn goes on."""
    turns: list[Mapping[str, Any]] = row["turns"]
    return [turn for turn, after in zip(turns, [*turns[1:], {}], strict=True) if not after.get("continues")]


def _last_attempts(trajectories: Path) -> Iterator[Row]:
    """Without forks, which go on from the middle of others."""
    for path in sorted(trajectories.glob("rl-*.parquet"), reverse=True)[:_MOST_FILES]:
        rows = pq.read_table(path, columns=_COLUMNS).to_pylist()
        yield from (row for row in rows if row["lineage"] is None)


def _episode(row: Row) -> dict[str, Any]:
    return {
        "attempt": f"{row['group']}.{row['slot']}.{row['tries']}",
        "step": row["step"],
        "cell": f"{row['family']}-{row['level']}",
        "prompt": row["prompt"],
        "end": row["end"],
        "detail": row["detail"],
        "reward": row["reward"],
        "events": [
            {
                "said": event["raw"] if event["problem"] else " ".join([event["tool"], *_values(event)]),
                "read": event["text"],
            }
            for event in row["events"]
        ],
    }


def _values(event: Row) -> list[str]:
    return [str(value) for value in json.loads(event["arguments"]).values()]
