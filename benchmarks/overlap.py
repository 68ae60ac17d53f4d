"""How much tool latency and trainer work is hidden when the roles overlap?

python benchmarks/overlap.py [--short] [--steps 12]

The world is `agito.testing.relay`: fixed work, added latency, real engine, real trainer, random weights.
Enough groups are zero-variance that the engine's work equals the trainer's within a tenth. Arms:

- serial: one engine process and one trainer process that alternate (decoupled with staleness 0);
- concurrent: a step's episodes run concurrently, no episode waits for another's tool, both processes sample
  and then both learn;
- decoupled, S = 1, 2, 4, 8.

Tg and Tt are the seconds per step of engine and trainer in the serial arm, CPU those of all processes. Bound:
a step takes at least max(Tg, Tt, CPU / cores). It is compared with the steady steps of a decoupled run right
after, and the fraction is the median over such pairs. `_whole` includes the first steps, in which nothing can
be ready, and the last, in which nothing is issued. Two cores that are threads of one do less than twice the
work of one: `effective_cores` is the speed-up of matrix products of the model's size over that many
processes, and `_effective` uses it in the bound. Slow tools are measured without zero-variance groups. The
simulator is `agito.training.planning.simulate`, fed with measurements of the serial and the concurrent arm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from subprocess import PIPE
from typing import TypeAlias

import anyio

from agito.recipe import Recipe
from agito.scheduling.async_scheduler import SchedulerRules
from agito.testing.relay import HEAVY_MEDIAN_S, HEAVY_RATIO, Relay
from agito.training.loop import Step
from agito.training.planning.calibrate import Measurement
from agito.training.planning.calibrate import measure as measure_run
from agito.training.planning.simulate import Simulation
from harness import Json, report

_TURNS, _TURN_TOKENS, _WORDS = 6, 16, 4
_GROUPS, _SIZE, _ROWS = 8, 4, 320
_QUANTUM = 8  # decode steps between two exchanges
_ALLOWED = {"0": 2, "0.05": 4}  # staleness of the arms compared with the bound, by latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Results of one arm; seconds are per step."""

    name: str
    latency: str
    wall_s: float  # whole run over its steps
    # without the first steps, in which nothing can be ready, and the last, in which nothing is issued
    steady_s: float
    engine_s: float
    train_s: float
    cpu_s: float
    trainer_idle: float  # of the steady steps, as are the next two
    gate_wait: float
    publish_pause: float
    stale_tokens: int
    discarded: float


async def run(name: str, latency: str, *, steps: int, zero_variance: float) -> tuple[Arm, Measurement]:
    mode, _, staleness = name.partition("-")
    recipe = Recipe.model_validate(
        {
            "model": {"vocab_size": 300},
            "compute": {"ranks": 2, "max_num_seqs": _ROWS, "context": 384, "decode_steps": _QUANTUM},
            "rl": {
                "steps": steps,
                "groups": _GROUPS,
                "group_size": _SIZE,
                "oversampling": 4.0,
                "adaptive_sampling": False,
            },
            "pipeline": {
                "mode": "concurrent" if mode == "concurrent" else "decoupled",
                "max_staleness": int(staleness or 0),
            },
        }
    )
    world = Relay(latency, turns=_TURNS, turn_tokens=_TURN_TOKENS, words=_WORDS, zero_variance=zero_variance)
    seen = await measure_run(recipe, world, steps=steps)
    return _sum_up(name, latency, seen), seen


def _sum_up(name: str, latency: str, seen: Measurement) -> Arm:
    num, allowed = len(seen.steps), int(name.partition("-")[2] or 0)
    steady = seen.steps[allowed + 1 : num - allowed - 1] or seen.steps[1:]
    attempts = [attempt for step in seen.steps for group in step.groups for attempt in group.attempts]
    sampled = sum(attempt.trajectory.num_sampled for attempt in attempts)
    stale = [
        step.metrics["policy/tokens"] * share
        for step in seen.steps
        for key, share in step.metrics.items()
        if key.startswith("age/v") and int(key.removeprefix("age/v").removesuffix("_ratio")) > allowed
    ]
    return Arm(
        name=name,
        latency=latency,
        wall_s=seen.wall_s / num,
        steady_s=mean_of(steady, "time/step_s"),
        engine_s=seen.engine_s,
        train_s=seen.train_s,
        cpu_s=seen.cpu_s / num,
        trainer_idle=mean_of(steady, "trainer/idle_ratio"),
        gate_wait=mean_of(steady, "trainer/gate_wait_ratio"),
        publish_pause=mean_of(steady, "engine/publish_pause_ratio"),
        stale_tokens=round(sum(stale)),
        discarded=sum(attempt.trajectory.num_sampled for attempt in attempts if not attempt.is_scored)
        / sampled,
    )


def mean_of(steps: Sequence[Step], name: str) -> float:
    return statistics.fmean(step.metrics[name] for step in steps)


def foreseen(seen: Measurement, name: str, steps: int) -> float:
    """Seconds per step with heavy-tailed tools, if exchanges and batches take as long as in `seen` and
    nothing else takes time.
    """
    latencies = seen.latencies(
        turns=_TURNS,
        turn_tokens=_TURN_TOKENS,
        decode_steps=_QUANTUM,
        tool_median_s=HEAVY_MEDIAN_S,
        tool_p99_s=HEAVY_MEDIAN_S * HEAVY_RATIO,
    )
    engines = 2 if name == "concurrent" else 1
    rules = SchedulerRules(
        groups=_GROUPS,
        group_size=_SIZE,
        batches=steps,
        max_staleness=int(name.partition("-")[2] or 0),
        max_live=_ROWS * engines,
    )
    return statistics.median(
        Simulation(rules, latencies, engines=engines, seed=seed).run().step_s for seed in range(5)
    )


Pairs: TypeAlias = "Mapping[str, Sequence[tuple[Arm, Arm]]]"


class Measurements:
    """Runs arms, prints them, and keeps what each came to."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.arms: list[Arm] = []
        self.observed: dict[str, Measurement] = {}  # the last of each name

    def arm(self, name: str, latency: str, zero_variance: float = 0.0, steps: int = 0) -> Arm:
        arm, seen = anyio.run(
            lambda: run(name, latency, steps=steps or self.steps, zero_variance=zero_variance)
        )
        self.arms.append(arm)
        self.observed[f"{name} at {latency}"] = seen
        print(
            f"{name:12} {latency:5} step {arm.wall_s:6.3f} s, steady {arm.steady_s:6.3f} s  engine "
            f"{arm.engine_s:.3f}  "
            f"trainer {arm.train_s:.3f}  CPU {arm.cpu_s:.3f}  idle {arm.trainer_idle:.2f}  gate "
            f"{arm.gate_wait:.2f}  "
            f"pause {arm.publish_pause:.4f}  stale {arm.stale_tokens}",
            flush=True,
        )
        return arm

    def pairs(self, zero_variance: float, repeats: int) -> Pairs:
        """The serial arm and a decoupled one right after it, by the latter's latency."""
        return {
            latency: [
                (
                    self.arm("serial", "0", zero_variance),
                    self.arm(f"decoupled-{allowed}", latency, zero_variance),
                )
                for _ in range(repeats)
            ]
            for latency, allowed in _ALLOWED.items()
        }

    def heavy_tail(self, staleness: Sequence[int]) -> tuple[dict[str, float], dict[str, float]]:
        """Speed-up over the concurrent arm by staleness, as measured and as simulated."""
        self.arm("serial", "0")
        concurrent = self.arm("concurrent", "heavy")
        baseline_s = foreseen(self.observed["concurrent at heavy"], "concurrent", self.steps)
        measured, simulated = dict[str, float](), dict[str, float]()
        for allowed in staleness:
            name = f"decoupled-{allowed}"
            measured[str(allowed)] = concurrent.wall_s / self.arm(name, "heavy").wall_s
            simulated[str(allowed)] = baseline_s / foreseen(self.observed["serial at 0"], name, self.steps)
        return measured, simulated


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--short", action="store_true", help="fewer steps, fewer arms")
    options = parser.parse_args()
    measured = Measurements(14 if options.short else options.steps)
    zero_variance, cores, num_cores = _balanced(), effective_cores(), os.cpu_count() or 1
    print(f"{num_cores} cores do {cores:.2f} times the work of one", flush=True)
    pairs = measured.pairs(zero_variance, 1 if options.short else 3)
    if not options.short:
        for name in ("serial", "concurrent", "decoupled-2"):
            measured.arm(name, "1", steps=6)
    speed_ups, simulated = measured.heavy_tail((8,) if options.short else (1, 2, 4, 8))
    figures: dict[str, Json] = {
        **_bound_fractions(pairs, cores, num_cores),
        "effective_cores": round(cores, 2),
        "speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in speed_ups.items()},
        "simulator_fraction": {
            allowed: round(ratio / simulated[allowed], 3) for allowed, ratio in speed_ups.items()
        },
        **_summary(pairs, measured.arms),
    }
    detail: dict[str, Json] = {
        "zero_variance": zero_variance,
        "steps": measured.steps,
        "bound_fractions": {
            at: [round(_bound_s(serial, num_cores) / arm.steady_s, 3) for serial, arm in each]
            for at, each in pairs.items()
        },
        "simulated_speedup_heavy_tail": {allowed: round(ratio, 2) for allowed, ratio in simulated.items()},
        "arms": [asdict(arm) for arm in measured.arms],
    }
    report("overlap", figures, detail)


def _bound_fractions(pairs: Pairs, cores: float, num_cores: int) -> dict[str, Json]:
    fractions: dict[str, Json] = {}
    for latency, called in (("0", "zero"), ("0.05", "50ms")):
        for kind, used, took_of in (
            ("", num_cores, _steady),
            ("_whole", num_cores, _whole),
            ("_effective", cores, _steady),
        ):
            each = [_bound_s(serial, used) / took_of(arm) for serial, arm in pairs[latency]]
            fractions[f"bound_fraction_{called}{kind}"] = round(statistics.median(each), 3)
    return fractions


def _summary(pairs: Pairs, arms: Sequence[Arm]) -> dict[str, Json]:
    pauses = [arm.publish_pause for arm in arms if arm.name.startswith("decoupled")]
    balances = [serial.train_s / serial.engine_s for each in pairs.values() for serial, _ in each]
    return {
        "trainer_idle": round(statistics.median(arm.trainer_idle for _, arm in pairs["0"]), 3),
        "trainer_idle_50ms": round(statistics.median(arm.trainer_idle for _, arm in pairs["0.05"]), 3),
        "balance": round(statistics.median(balances), 3),
        "discarded": max(arm.discarded for arm in arms),
        "publish_pause": round(statistics.median(pauses), 5),
        "publish_pause_max": round(max(pauses), 5),
        "stale_tokens": sum(arm.stale_tokens for arm in arms),
    }


def _bound_s(serial: Arm, cores: float) -> float:
    return max(serial.engine_s, serial.train_s, serial.cpu_s / cores)


def _steady(arm: Arm) -> float:
    return arm.steady_s


def _whole(arm: Arm) -> float:
    return arm.wall_s


def effective_cores() -> float:
    """The work of one process per core together, relative to one alone; median of five."""
    code = (
        "import sys, time, torch\ntorch.set_num_threads(1)\na, b = torch.randn(64, 128), torch.randn(128, "
        "512)\n"
        "print('ready', flush=True)\nfor line in sys.stdin:\n    ends, done = time.monotonic() + .4, 0\n"
        "    while time.monotonic() < ends:\n        for _ in range(50): a @ b\n        done += 50\n    "
        "print(done, flush=True)\n"
    )
    cores = os.cpu_count() or 1
    working = [
        subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True, bufsize=1)
        for _ in range(cores)
    ]
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


def _balanced() -> float:
    """The share of zero-variance groups at which engine and trainer take equally long for a step."""
    share = 0.0
    for _ in range(4):
        arm, _ = anyio.run(lambda share=share: run("serial", "0", steps=6, zero_variance=share))
        print(
            f"{share:.2f} of the groups are zero-variance: trainer {arm.train_s:.3f} s, engine "
            f"{arm.engine_s:.3f} s",
            flush=True,
        )
        if 1 <= arm.train_s / arm.engine_s < 1.08:
            break
        share = min(max(1 - (1 - share) * 1.04 * arm.engine_s / arm.train_s, 0.0), 0.75)
    return round(share, 3)


if __name__ == "__main__":
    main()
