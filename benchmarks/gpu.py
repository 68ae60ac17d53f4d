"""GPU performance: the engine against transformers and memory bandwidth, the trainer against peak FLOPS, one
recipe.

    python benchmarks/gpu.py [--only decode agents train recipe] [--short]

- `decode`: sampled tokens per second if all rows decode, 64 tokens in and 128 out, for the network of
  `engine.py` (3.7 M parameters, float32) and one of the shape of Qwen3-0.6B (random weights, bfloat16); with
  CUDA graphs and without. Bound: every step reads all weights, and the rows' cache, at the speed of a copy on
  this device.
- `agents`: the workload of `engine.py`, many turns with 50 ms for the tool, against `generate` of
  transformers on the same device.
- `train`: tokens per second of an RL step in float32, and its share of the device's float32 matrix
  throughput.
- `recipe`: the whole quickstart on the device, and its seconds on this machine's CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import anyio
import torch

from agito.learning.trainer import LocalTrainer
from agito.learning.trainer.config import TrainerConfig
from agito.models import Qwen3, Qwen3Config
from agito.models.network import num_params
from agito.protocols import SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.embedded.steps import LaunchedSteps
from agito.sampling.wire import EngineRequest, RowRequest
from agito.types import AttemptId, Sample, VersionSpan
from engine import MODEL, PEERS, ours, peer
from harness import Json, report

NEEDS_GPU = True
SMALL = MODEL
LARGE = Qwen3Config(
    vocab_size=151_936,
    hidden_size=1024,
    intermediate_size=3072,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    max_position=4096,
)
_IN, _OUT = 64, 128  # tokens
_RECIPE_S = 160.0  # at most


def bytes_per_s() -> float:
    """Bytes read and written by a copy too large for any cache."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), 20)


def flops_per_s() -> float:
    """Of float32 products."""
    a, b = torch.randn(2, 8192, 8192, device="cuda")
    return 2 * 8192**3 / _seconds(lambda: a @ b, 5)


def _seconds(run: Callable[[], object], times: int) -> float:
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def decode(
    config: Qwen3Config, dtype: torch.dtype, rows: int, pace: float, *, recorded: bool
) -> dict[str, Json]:
    """Medians over three rounds of `rows` requests, after a warm-up round."""
    model = Qwen3(config, device="cuda", dtype=dtype)
    steps = None if recorded else LaunchedSteps(torch.device("cuda"))
    engine = EmbeddedEngine(model, rows=rows, context=_IN + _OUT, chunk=1 << 16, steps=steps)
    rng, found = random.Random(0), list[float]()
    for number in range(4):
        asked = [
            RowRequest(
                key=number * rows + row,
                seed=row,
                request=SampleRequest(
                    extend=array("i", rng.choices(range(config.vocab_size), k=_IN)),
                    max_tokens=_OUT,
                    stop_ids=(),
                ),
            )
            for row in range(rows)
        ]
        engine.advance(EngineRequest(requests=tuple(asked), steps=0))
        torch.cuda.synchronize()
        began = time.perf_counter()
        done = engine.advance(EngineRequest(steps=_OUT)).done
        found.append(rows * (_OUT - 1) / (time.perf_counter() - began))
        assert len(done) == rows
        engine.advance(EngineRequest(closed=tuple(request.key for request in asked), steps=0))
    weights = num_params(model) * dtype.itemsize
    held = (
        rows
        * (_IN + _OUT / 2)
        * config.num_layers
        * config.num_kv_heads
        * config.head_dim
        * 2
        * dtype.itemsize
    )
    rate = statistics.median(found[1:])
    return {
        "tokens_per_s": round(rate),
        "step_ms": round(rows / rate * 1e3, 3),
        "bound_fraction": round(rate * (weights + held) / pace / rows, 3),
    }


def agents(numbers: list[int]) -> dict[str, Json]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model"
        rates = anyio.run(ours, checkpoint, numbers, "cuda", 1)
        listed = list(map(str, numbers))
        command = (
            sys.executable,
            str(PEERS / "transformers_arm.py"),
            str(checkpoint),
            "generate",
            "1",
            *listed,
        )
        theirs = peer(*command, threads=1, variables={"DEVICE": "cuda"})
    return {
        key: {
            "ours": round(rates[key][0]),
            "generate": round(theirs[key][0]),
            "ratio": round(rates[key][0] / theirs[key][0], 2),
        }
        for key in listed
    }


def train(
    config: Qwen3Config, *, sequences: int, length: int, micro_tokens: int, flops: float
) -> dict[str, Json]:
    """Tokens per second of a step; 6 operations per parameter and token, counting the embedding only if it is
    the head.
    """
    torch.cuda.reset_peak_memory_stats()
    model = Qwen3(config, device="cuda")
    trainer = LocalTrainer(
        model, TrainerConfig(minibatches=1, micro_tokens=micro_tokens, check_on_policy=False)
    )
    trainer.begin_phase("rl", 10)
    rng, found = random.Random(0), list[float]()
    samples = [
        Sample(
            attempt=AttemptId(group=number // 8, slot=number % 8),
            segment=0,
            ids=array("i", rng.choices(range(config.vocab_size), k=length)),
            logprobs=array("f", [-8.0] * length),
            trainable=bytes([0] + [1] * (length - 1)),
            advantages=array("f", [rng.gauss(0, 1)] * length),
            versions=(VersionSpan(start=0, stop=length, version=0),),
            temperature=1.0,
        )
        for number in range(sequences)
    ]
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        trainer.step(samples)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    step_s, tokens = statistics.median(found[1:]), sequences * length
    return {
        "tokens_per_s": round(tokens / step_s),
        "step_s": round(step_s, 3),
        "product_fraction": round(6 * num_params(model) * tokens / step_s / flops, 3),
        "memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }


def recipe(device: str) -> dict[str, Json]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "agito.cli", "train", "quickstart", "--out", str(out)]
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*command, "--set", f"compute.device={device}"],
                capture_output=True,
                text=True,
                timeout=_RECIPE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"not done after {_RECIPE_S:g} s"}
        if done.returncode:
            return {"problem": (done.stdout + done.stderr)[-1500:]}
        wall_s = time.monotonic() - began
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    phases: dict[str, Json] = {name: round(seconds, 1) for name, seconds in summary["phase_wall_s"].items()}
    before, after = (round(summary[f"success_{when}"], 3) for when in ("before", "after"))
    return {"wall_s": round(wall_s, 1), "before": before, "after": after, "phases_s": phases}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["decode", "agents", "train", "recipe"])
    parser.add_argument("--short", action="store_true", help="fewer sizes")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no CUDA device here")
    pace, flops = bytes_per_s(), flops_per_s()
    figures: dict[str, Json] = {}
    if "decode" in options.only:
        found: dict[str, Json] = {}
        for name, config, dtype in (
            ("3.7M float32", SMALL, torch.float32),
            ("0.6B bfloat16", LARGE, torch.bfloat16),
        ):
            for rows in (8, 128) if options.short else (1, 8, 32, 128, 512):
                for recorded in (True, False):
                    key = f"{name}, {rows} rows, {'recorded' if recorded else 'launched'}"
                    found[key] = decode(config, dtype, rows, pace, recorded=recorded)
                    print(key, found[key], flush=True)
        figures["decode"] = found
    if "agents" in options.only:
        figures["agents"] = agents([8, 128] if options.short else [1, 8, 32, 128, 512])
        print("agents", figures["agents"], flush=True)
    if "train" in options.only:
        figures["train"] = {
            "3.7M": train(SMALL, sequences=256, length=256, micro_tokens=1 << 15, flops=flops),
            "0.6B": train(LARGE, sequences=32, length=512, micro_tokens=1 << 12, flops=flops),
        }
        print("train", figures["train"], flush=True)
    if "recipe" in options.only:
        figures["recipe"] = {device: recipe(device) for device in ("cuda", "cpu")}
    device = torch.cuda.get_device_properties(0)
    about: dict[str, Json] = {
        "device": device.name,
        "memory_gb": round(device.total_memory / 2**30),
        "torch": torch.__version__,
        "copy_tb_per_s": round(pace / 1e12, 2),
        "float32_tflops": round(flops / 1e12, 1),
    }
    report("gpu", figures, about)


if __name__ == "__main__":
    main()
