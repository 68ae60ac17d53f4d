"""How much of the tools' latency is hidden, and how much of the trainer's work, when roles overlap?

    python benchmarks/overlap.py [--short] [--steps 12]

The world is `relay.py`: fixed work, added latency, real engine, real trainer, random weights. Arms:

- serial: one engine process and one trainer process that take turns (decoupled with staleness 0);
- concurrent: a step's episodes run concurrently, no episode waits for another's tool, both processes sample and then both learn;
- decoupled, S = 1, 2, 4, 8.

Tg and Tt are the engine's and the trainer's seconds a step in the serial arm, CPU all processes' seconds a step there. Bound: a step takes
at least max(Tg, Tt, CPU / cores). The simulator is `agito.plan`, fed with what the serial and the concurrent arm measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import numpy as np

from agito import pipeline
from agito.curriculum import Curriculum
from agito.engine.wire import Advance, Advanced
from agito.loop import Step
from agito.plan import Latencies, Simulation
from agito.recipe import Recipe
from agito.render import learn
from agito.schedule import FlowRules
from agito.studio import Studio
from harness import Json, report
from relay import Relay

_TURNS, _TURN_TOKENS = 6, 16
_GROUPS, _SIZE, _ROWS = 8, 4, 320
_HEAVY_MEDIAN_S, _HEAVY_P99_S = 0.2, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one arm came to; seconds are of a step."""

    name: str
    latency: str
    wall_s: float  # whole run over its steps
    engine_s: float
    train_s: float
    cpu_s: float
    trainer_idle: float  # without the first steps, in which nothing can be ready, and the last, in which nothing is issued
    gate_wait: float
    publish_pause: float
    stale_tokens: int
    discarded: float
    exchange: tuple[float, float, float]  # seconds: each, per row, per extended token
    observed_tokens: float


async def run(name: str, latency: str, *, steps: int, words: int) -> Arm:
    mode, _, staleness = name.partition("-")
    recipe = Recipe.model_validate(
        {
            "model": {"vocab_size": 300},
            "compute": {"ranks": 2, "rows": _ROWS, "context": 384},
            "rl": {"steps": steps, "groups": _GROUPS, "group_size": _SIZE, "refill": 1.0, "follow": False},
            "pipeline": {"mode": "concurrent" if mode == "concurrent" else "decoupled", "max_staleness": int(staleness or 0)},
        }
    )
    studio = Studio(recipe, Relay(latency, turns=_TURNS, turn_tokens=_TURN_TOKENS, words=words))
    studio.vocabulary = learn(["relay " + " ".join(f"word{number}" for number in range(7))] * 20, size=300)
    versions, seen = itertools.count(1), list[tuple[float, float, float, float]]()
    found: list[Step] = []

    async def on_step(step: Step, position: pipeline.Position) -> None:
        found.append(step)

    async def train(steps: int) -> float:
        studio.recipe = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"steps": steps})})
        began = time.monotonic()
        await pipeline.train(
            studio, Curriculum(1), start=0, position=pipeline.Position(), on_step=on_step, new_version=lambda: next(versions)
        )
        return time.monotonic() - began

    try:
        await studio.open_compute()
        _listen(studio, seen)
        await train(2)  # warm
        found.clear()
        seen.clear()
        before_s = _cpu_s()
        wall_s = await train(steps)
        cpu_s = _cpu_s() - before_s
    finally:
        if studio.compute is not None:
            await studio.compute.aclose()
    return _sum_up(name, latency, found, seen, wall_s, cpu_s)


def _sum_up(
    name: str, latency: str, steps: Sequence[Step], seen: Sequence[tuple[float, float, float, float]], wall_s: float, cpu_s: float
) -> Arm:
    num, allowed = len(steps), int(name.partition("-")[2] or 0)
    steady = [step.figures for step in steps[allowed + 1 : num - allowed - 1]] or [step.figures for step in steps[1:]]
    attempts = [attempt for step in steps for group in step.groups for attempt in group.attempts]
    sampled = sum(attempt.trajectory.num_sampled for attempt in attempts)
    void = sum(attempt.trajectory.num_sampled for attempt in attempts if not attempt.is_scored)
    rows, extended, busy_s = (np.array(column) for column in list(zip(*seen, strict=True))[:3])
    fit, *_ = np.linalg.lstsq(np.stack([np.ones_like(rows), rows, extended], axis=1), busy_s, rcond=None)
    lengths = [len(attempt.trajectory.segments[0].tokens.ids) for attempt in attempts]
    return Arm(
        name=name, latency=latency, wall_s=wall_s / num, engine_s=float(busy_s.sum()) / num,
        train_s=statistics.fmean(step.figures["time/train_s"] for step in steps), cpu_s=cpu_s / num,
        trainer_idle=statistics.fmean(each["trainer/idle_ratio"] for each in steady),
        gate_wait=statistics.fmean(each["trainer/gate_wait_ratio"] for each in steady),
        publish_pause=statistics.fmean(each["engine/publish_pause_ratio"] for each in steady),
        stale_tokens=round(sum(
            step.figures["policy/tokens"] * share for step in steps for key, share in step.figures.items()
            if key.startswith("age/v") and int(key[5:].partition("_")[0]) > allowed
        )),
        discarded=void / sampled, exchange=(float(fit[0]), float(fit[1]), float(fit[2])),
        observed_tokens=statistics.fmean(lengths) / _TURNS - _TURN_TOKENS,
    )  # fmt: skip


def _listen(studio: Studio, seen: list[tuple[float, float, float, float]]) -> None:
    """Writes down rows, extended tokens and seconds of every exchange."""
    compute = studio.compute
    assert compute is not None
    plain, live = compute.advance, dict.fromkeys(range(compute.num_ranks), 0)

    async def advance(rank: int, exchange: Advance) -> Advanced:
        rows, began = live[rank] + len(exchange.requests), time.monotonic()
        answer = await plain(rank, exchange)
        live[rank] = answer.live
        extended = sum(len(request.request.extend) for request in exchange.requests)
        seen.append((float(rows), float(extended), answer.busy_s, began))
        return answer

    compute.advance = advance


def _cpu_s() -> float:
    """Of this process and its children that live."""
    total, me = 0.0, str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == me or stat.parent.name == me:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def foreseen(serial: Arm, name: str, train_s: float, steps: int, *, heavy: bool) -> float:
    """Seconds a step, without any overhead but what engine and trainer really took."""
    each_s, row_s, token_s = serial.exchange
    latencies = Latencies(
        exchange_s=max(each_s, 0.0), row_s=max(row_s, 0.0), token_s=max(token_s, 0.0), train_s=train_s, turns=_TURNS,
        turn_tokens=_TURN_TOKENS, observed_tokens=round(serial.observed_tokens), tool_median_s=_HEAVY_MEDIAN_S if heavy else 0.0,
        tool_p99_s=_HEAVY_P99_S if heavy else 0.0, even=0.12,
    )  # fmt: skip
    engines = 2 if name == "concurrent" else 1
    rules = FlowRules(
        groups=_GROUPS, group_size=_SIZE, batches=steps, max_staleness=int(name.partition("-")[2] or 0), max_live=_ROWS * engines
    )
    return statistics.median(Simulation(rules, latencies, engines=engines, seed=seed).run().step_s for seed in range(5))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--short", action="store_true", help="fewer steps, fewer arms")
    options = parser.parse_args()
    steps = 8 if options.short else options.steps
    words = _balanced()
    arms: dict[str, Arm] = {}

    def measure(name: str, latency: str) -> Arm:
        arm = anyio.run(lambda: run(name, latency, steps=steps, words=words))
        arms[f"{name} at {latency}"] = arm
        print(
            f"{name:12} {latency:5} step {arm.wall_s:6.3f} s  engine {arm.engine_s:.3f}  trainer {arm.train_s:.3f}  CPU {arm.cpu_s:.3f}  "
            f"idle {arm.trainer_idle:.2f}  gate {arm.gate_wait:.2f}  pause {arm.publish_pause:.4f}  stale {arm.stale_tokens}", flush=True
        )  # fmt: skip
        return arm

    serial = measure("serial", "0")
    bound_s = max(serial.engine_s, serial.train_s, serial.cpu_s / (os.cpu_count() or 1))
    fractions, idle = dict[str, float](), dict[str, float]()
    for latency in ("0", "0.05"):
        best = min(
            (measure(f"decoupled-{allowed}", latency) for allowed in ((2,) if options.short else (1, 2, 4))), key=lambda arm: arm.wall_s
        )
        fractions[latency], idle[latency] = bound_s / best.wall_s, best.trainer_idle
    if not options.short:
        for name in ("serial", "concurrent", "decoupled-2"):
            measure(name, "1")
    concurrent = measure("concurrent", "heavy")
    speed_ups, simulated = dict[str, float](), dict[str, float]()
    baseline_s = foreseen(serial, "concurrent", concurrent.train_s, steps, heavy=True)
    for allowed in (8,) if options.short else (1, 2, 4, 8):
        name = f"decoupled-{allowed}"
        speed_ups[str(allowed)] = concurrent.wall_s / measure(name, "heavy").wall_s
        simulated[str(allowed)] = baseline_s / foreseen(serial, name, serial.train_s, steps, heavy=True)
    figures: dict[str, Json] = {
        "bound_fraction_zero": round(fractions["0"], 3),
        "bound_fraction_50ms": round(fractions["0.05"], 3),
        "speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in speed_ups.items()},
        "simulator_fraction": {allowed: round(ratio / simulated[allowed], 3) for allowed, ratio in speed_ups.items()},
        "trainer_idle": round(idle["0"], 3),
        "balance": round(serial.train_s / serial.engine_s, 3),
        "discarded": max(arm.discarded for arm in arms.values()),
        "publish_pause": round(max(arm.publish_pause for arm in arms.values() if arm.name.startswith("decoupled")), 5),
        "stale_tokens": sum(arm.stale_tokens for arm in arms.values()),
    }
    detail: dict[str, Json] = {
        "bound_s": round(bound_s, 4), "words": words, "steps": steps,
        "simulated_speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in simulated.items()},
        "arms": {key: {field: each for field, each in asdict(arm).items() if field != "exchange"} for key, arm in arms.items()},
    }  # fmt: skip
    report("overlap", figures, detail)


def _balanced() -> int:
    """As many words in an observation as make the trainer's time the engine's."""
    tried: dict[int, float] = {}
    for words in (2, 6, 12, 20):
        arm = anyio.run(lambda words=words: run("serial", "0", steps=4, words=words))
        tried[words] = arm.train_s / arm.engine_s
        print(f"{words} words: trainer {arm.train_s:.3f} s, engine {arm.engine_s:.3f} s", flush=True)
        if tried[words] > 1:
            break
    return min(tried, key=lambda words: abs(np.log(tried[words])))


if __name__ == "__main__":
    main()
