"""How much of the tools' latency is hidden, and how much of the trainer's work, when roles overlap?

    python benchmarks/overlap.py [--short] [--steps 12]

The world is `agito.testing.relay`: fixed work, added latency, real engine, real trainer, random weights. Arms:

- serial: one engine process and one trainer process that take turns (decoupled with staleness 0);
- concurrent: a step's episodes run concurrently, no episode waits for another's tool, both processes sample and then both learn;
- decoupled, S = 1, 2, 4, 8.

Tg and Tt are the engine's and the trainer's seconds a step in the serial arm, CPU all processes' seconds a step there. Bound: a step takes
at least max(Tg, Tt, CPU / cores). Two cores that are threads of one do less than twice the work of one: `effective_cores` is how much more
a product of matrices of the model's size gets done by as many processes, and the figures in `_effective` are those of the bound with that
number. The simulator is `agito.plan`, fed with what the serial and the concurrent arm measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from subprocess import PIPE

import anyio
import numpy as np

from agito.calibrate import Observed, observe
from agito.loop import Step
from agito.plan import Simulation
from agito.recipe import Recipe
from agito.schedule import FlowRules
from agito.testing.relay import HEAVY_MEDIAN_S, HEAVY_RATIO, Relay
from harness import Json, report

_TURNS, _TURN_TOKENS = 6, 16
_GROUPS, _SIZE, _ROWS = 8, 4, 320


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


async def run(name: str, latency: str, *, steps: int, words: int) -> tuple[Arm, Observed]:
    mode, _, staleness = name.partition("-")
    recipe = Recipe.model_validate(
        {
            "model": {"vocab_size": 300},
            "compute": {"ranks": 2, "rows": _ROWS, "context": 384},
            "rl": {"steps": steps, "groups": _GROUPS, "group_size": _SIZE, "refill": 1.0, "follow": False},
            "pipeline": {"mode": "concurrent" if mode == "concurrent" else "decoupled", "max_staleness": int(staleness or 0)},
        }
    )
    seen = await observe(recipe, Relay(latency, turns=_TURNS, turn_tokens=_TURN_TOKENS, words=words), steps=steps)
    return _sum_up(name, latency, seen), seen


def _sum_up(name: str, latency: str, seen: Observed) -> Arm:
    num, allowed = len(seen.steps), int(name.partition("-")[2] or 0)
    steady = seen.steps[allowed + 1 : num - allowed - 1] or seen.steps[1:]
    attempts = [attempt for step in seen.steps for group in step.groups for attempt in group.attempts]
    sampled = sum(attempt.trajectory.num_sampled for attempt in attempts)
    stale = [
        step.figures["policy/tokens"] * share for step in seen.steps for key, share in step.figures.items()
        if key.startswith("age/v") and int(key.removeprefix("age/v").removesuffix("_ratio")) > allowed
    ]  # fmt: skip
    return Arm(
        name=name, latency=latency, wall_s=seen.wall_s / num, engine_s=seen.engine_s, train_s=seen.train_s, cpu_s=seen.cpu_s / num,
        trainer_idle=mean_of(steady, "trainer/idle_ratio"), gate_wait=mean_of(steady, "trainer/gate_wait_ratio"),
        publish_pause=mean_of(steady, "engine/publish_pause_ratio"), stale_tokens=round(sum(stale)),
        discarded=sum(attempt.trajectory.num_sampled for attempt in attempts if not attempt.is_scored) / sampled,
    )  # fmt: skip


def mean_of(steps: Sequence[Step], name: str) -> float:
    return statistics.fmean(step.figures[name] for step in steps)


def foreseen(seen: Observed, name: str, steps: int) -> float:
    """Seconds a step under the heavy tail, without any overhead but what engine and trainer really took in `seen`."""
    latencies = seen.latencies(
        turns=_TURNS, turn_tokens=_TURN_TOKENS, quantum=4, tool_median_s=HEAVY_MEDIAN_S, tool_p99_s=HEAVY_MEDIAN_S * HEAVY_RATIO
    )
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
    observed: dict[str, Observed] = {}

    def measure(name: str, latency: str) -> Arm:
        arm, observed[f"{name} at {latency}"] = anyio.run(lambda: run(name, latency, steps=steps, words=words))
        arms[f"{name} at {latency}"] = arm
        print(
            f"{name:12} {latency:5} step {arm.wall_s:6.3f} s  engine {arm.engine_s:.3f}  trainer {arm.train_s:.3f}  CPU {arm.cpu_s:.3f}  "
            f"idle {arm.trainer_idle:.2f}  gate {arm.gate_wait:.2f}  pause {arm.publish_pause:.4f}  stale {arm.stale_tokens}", flush=True
        )  # fmt: skip
        return arm

    fractions, effective, idle, bounds_s = dict[str, float](), dict[str, float](), dict[str, float](), dict[str, float]()
    cores = effective_cores()
    print(f"{os.cpu_count()} cores do {cores:.2f} times the work of one", flush=True)
    for latency in ("0", "0.05"):
        serial = measure("serial", "0")  # anew each time: the machine is not the same machine from one minute to the next
        bound_s = bounds_s[latency] = max(serial.engine_s, serial.train_s, serial.cpu_s / (os.cpu_count() or 1))
        best = min(
            (measure(f"decoupled-{allowed}", latency) for allowed in ((2,) if options.short else (1, 2, 4))), key=lambda arm: arm.wall_s
        )
        fractions[latency], idle[latency] = bound_s / best.wall_s, best.trainer_idle
        effective[latency] = max(bound_s, serial.cpu_s / cores) / best.wall_s
    if not options.short:
        for name in ("serial", "concurrent", "decoupled-2"):
            measure(name, "1")
    concurrent = measure("concurrent", "heavy")
    speed_ups, simulated = dict[str, float](), dict[str, float]()
    baseline_s = foreseen(observed["concurrent at heavy"], "concurrent", steps)
    for allowed in (8,) if options.short else (1, 2, 4, 8):
        name = f"decoupled-{allowed}"
        speed_ups[str(allowed)] = concurrent.wall_s / measure(name, "heavy").wall_s
        simulated[str(allowed)] = baseline_s / foreseen(observed["serial at 0"], name, steps)
    figures: dict[str, Json] = {
        "bound_fraction_zero": round(fractions["0"], 3),
        "bound_fraction_50ms": round(fractions["0.05"], 3),
        "bound_fraction_zero_effective": round(effective["0"], 3),
        "bound_fraction_50ms_effective": round(effective["0.05"], 3),
        "effective_cores": round(cores, 2),
        "speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in speed_ups.items()},
        "simulator_fraction": {allowed: round(ratio / simulated[allowed], 3) for allowed, ratio in speed_ups.items()},
        "trainer_idle": round(idle["0"], 3),
        "balance": round(serial.train_s / serial.engine_s, 3),
        "discarded": max(arm.discarded for arm in arms.values()),
        "publish_pause": round(max(arm.publish_pause for arm in arms.values() if arm.name.startswith("decoupled")), 5),
        "stale_tokens": sum(arm.stale_tokens for arm in arms.values()),
    }
    detail: dict[str, Json] = {
        "bound_s": {latency: round(bound_s, 4) for latency, bound_s in bounds_s.items()}, "words": words, "steps": steps,
        "simulated_speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in simulated.items()},
        "arms": {key: asdict(arm) for key, arm in arms.items()},
    }  # fmt: skip
    report("overlap", figures, detail)


def effective_cores() -> float:
    """How many times the work of one process as many processes do as there are cores; median of five, taking turns."""
    code = (
        "import sys, time, torch\ntorch.set_num_threads(1)\na, b = torch.randn(64, 128), torch.randn(128, 512)\n"
        "print('ready', flush=True)\nfor line in sys.stdin:\n    ends, done = time.monotonic() + .4, 0\n"
        "    while time.monotonic() < ends:\n        for _ in range(50): a @ b\n        done += 50\n    print(done, flush=True)\n"
    )
    cores = os.cpu_count() or 1
    working = [subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(cores)]
    for process in working:
        _line(process)
    ratios: list[float] = []
    for _ in range(5):
        alone, together = _work(working[:1]), _work(working)
        ratios.append(together / alone)
    for process in working:
        process.communicate()
    return statistics.median(ratios)


def _work(processes: Sequence[subprocess.Popen[str]]) -> int:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
    return sum(int(_line(process)) for process in processes)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _balanced() -> int:
    """As many words in an observation as make the trainer's time the engine's."""
    tried: dict[int, float] = {}
    for words in (2, 6, 12, 20):
        arm, _ = anyio.run(lambda words=words: run("serial", "0", steps=4, words=words))
        tried[words] = arm.train_s / arm.engine_s
        print(f"{words} words: trainer {arm.train_s:.3f} s, engine {arm.engine_s:.3f} s", flush=True)
        if tried[words] > 1:
            break
    return min(tried, key=lambda words: abs(np.log(tried[words])))


if __name__ == "__main__":
    main()
