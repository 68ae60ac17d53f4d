"""The CPU cost of a trusted verdict: per grading, per case, and as a share of whole rollouts.

`python benchmarks/grading_cost.py [--short] [--against SRC]`. A grading of n cases costs `fixed + n *
per_case`, by least squares over interleaved rounds. The shares compare grading in the environment `code` with
everything else that an attempt costs: its world (files, shell, tests) and the tokens of the quickstart's own
model, batched as in training; once for the actual episode, once for one of 2,000 sampled tokens. A larger
model makes both shares smaller. CPU is counted as in `sandbox.py`. `--against` names the `src` folder of
another checkout: the same gradings run there too, in interleaved pairs of processes, and `ratio` is this cost
over that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import anyio
import numpy as np

import agito
from agito.envs.code import CodeEnvironment
from agito.grading.functions import FunctionTask, grade
from agito.models import Qwen3, Qwen3Config
from agito.protocols import SampleRequest
from agito.recipe import read
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineRequest, RowRequest
from agito.testing.episodes import act_out
from agito.types import AttemptId, Dialect, EpisodeArtifacts, Target, Task
from agito.worlds.sandbox import Pool
from harness import report, spread
from sandbox import CpuMeter

REFERENCE = "def solve(xs):\n    return sorted(set(xs))\n"
CASES = (1, 4, 16)
LONG = 2000  # sampled tokens


def task_of(num_cases: int) -> FunctionTask:
    return FunctionTask(
        name="distinct",
        statement="",
        entry="solution.py:solve",
        reference=REFERENCE,
        visible=(),
        hidden=lambda rng: [[[rng.randrange(99) for _ in range(8)]] for _ in range(num_cases)],
    )


async def gradings(pool: Pool, meter: CpuMeter, rounds: int, count: int) -> dict[int, list[float]]:
    """CPU milliseconds of one grading, by number of cases; one value per round."""
    figures: dict[int, list[float]] = {num: [] for num in CASES}
    for at in range(rounds):
        for num in CASES:
            task = task_of(num)
            before = meter.read_ms()
            for seed in range(count):
                verdict = await grade(
                    pool, task, {"solution.py": REFERENCE.encode()}, secret=str(at), grade_seed=seed
                )
                assert verdict.reward == 1.0, verdict
            await anyio.sleep(0.05)  # the kernel releases namespaces afterwards
            figures[num].append((meter.read_ms() - before) / count)
    return figures


async def attempts(env: CodeEnvironment, meter: CpuMeter, count: int) -> tuple[float, float, float]:
    """CPU milliseconds of the world and of the grading of one solved task of `code`, levels 1 to 3, and the
    number of tokens said.
    """
    told = 0
    sealed: list[tuple[EpisodeArtifacts, Target]] = []
    before = meter.read_ms()
    for index in range(count):
        task, target = env.task(split="heldout", index=index, seed=0, level=1 + index % 3)
        control = await env.open(task, target, AttemptId(group=index, slot=0), noise_seed=0)
        events = await act_out(control.session, task.limits, env.solutions(task, target)[0])
        sealed.append((await control.seal(), target))
        told += _said(
            task,
            [str(value) for event in events for value in (event.call.tool, *event.call.arguments.values())],
        )
        await control.close()
    await anyio.sleep(0.05)
    middle = meter.read_ms()
    for each, target in sealed:
        assert (await env.grade(each, target, 0)).reward == 1.0
    await anyio.sleep(0.05)
    return (middle - before) / count, (meter.read_ms() - middle) / count, told / count


def _said(task: Task, words: list[str]) -> int:
    """Roughly the number of tokens that a policy would sample: one per word or sign."""
    assert Dialect.COMPACT in task.prompt
    return sum(len([letter for letter in word if not letter.isalnum()]) * 2 + 1 for word in words)


def engine_ms(rows: int, prompt: int, tokens: int) -> float:
    """CPU milliseconds of this process for one row's `tokens` sampled tokens, with `rows` concurrent rows."""
    recipe = read("quickstart")
    sizes: dict[str, Any] = recipe.model.model_dump() | {
        "vocab_size": 512,
        "max_position": prompt + tokens + 8,
    }
    shape = Qwen3Config(**sizes)
    engine = EmbeddedEngine(Qwen3(shape, seed=0), rows=rows, context=prompt + tokens + 8)
    request = SampleRequest(extend=array("i", [7] * prompt), max_tokens=tokens, stop_ids=())
    began = time.process_time()
    answer = engine.advance(
        EngineRequest(
            requests=tuple(RowRequest(key=key, seed=key, request=request) for key in range(rows)), steps=4
        )
    )
    while answer.live:
        answer = engine.advance(EngineRequest(steps=16))
    return (time.process_time() - began) * 1e3 / rows


async def only_gradings() -> None:
    """One process of a pair: prints the median for each number of cases."""
    meter = CpuMeter()
    async with await Pool.open(warm=2) as pool:
        await gradings(pool, meter, 1, 3)
        figures = await gradings(pool, meter, 3, 12)
    meter.close()
    print(json.dumps([statistics.median(values) for values in figures.values()]))


def pairs(other: str, num: int) -> list[list[float]]:
    """For each number of cases, the cost ratio of this checkout to the other, one value per pair."""
    ratios: list[list[float]] = [[] for _ in CASES]
    for _ in range(num):
        here, there = (_figures_of(source) for source in (str(Path(agito.__file__).parents[1]), other))
        for values, one, two in zip(ratios, here, there, strict=True):
            values.append(one / two)
    return ratios


def _figures_of(source: str) -> list[float]:
    command = [sys.executable, __file__, "--gradings"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


async def main(is_short: bool, other: str | None) -> None:
    rounds, count = (3, 8) if is_short else (9, 20)
    ratios = pairs(other, 4 if is_short else 12) if other else []
    meter = CpuMeter()
    async with await Pool.open(warm=2) as pool:
        await gradings(pool, meter, 1, 3)
        figures = await gradings(pool, meter, rounds, count)
        env = CodeEnvironment(pool=pool)
        world_ms, grade_ms, said = await attempts(env, meter, 30 if is_short else 120)
    meter.close()
    points = [(num, value) for num, values in figures.items() for value in values]
    per_case, fixed = np.polyfit([num for num, _ in points], [value for _, value in points], 1)
    tiny_ms = engine_ms(rows=96, prompt=120, tokens=max(round(said), 1))
    long_ms = engine_ms(rows=4 if is_short else 16, prompt=120, tokens=LONG)
    report(
        "grading_cost",
        {
            "fixed_cpu_ms": round(float(fixed), 2),
            "per_case_cpu_ms": round(float(per_case), 2),
            "share_tiny": round(grade_ms / (grade_ms + world_ms + tiny_ms), 3),
            "share_2k": round(grade_ms / (grade_ms + world_ms + long_ms), 3),
            **(
                {"ratio": round(statistics.median(value for values in ratios for value in values), 3)}
                if ratios
                else {}
            ),
        },
        {
            "grading_ms": {str(num): spread(values) for num, values in figures.items()},
            "ratio": {str(num): spread(values) for num, values in zip(CASES, ratios, strict=False)},
            "code_grade_ms": round(grade_ms, 2),
            "code_world_ms": round(world_ms, 2),
            "tokens_sampled": round(said),
            "engine_tiny_ms": round(tiny_ms, 2),
            "engine_2k_ms": round(long_ms, 2),
            "one_case_ms_p50": round(statistics.median(figures[1]), 2),
            "cpu_counted_by": meter.source,
        },
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    if "--gradings" in words:
        anyio.run(only_gradings)
    else:
        anyio.run(
            main, "--short" in words, words[words.index("--against") + 1] if "--against" in words else None
        )
