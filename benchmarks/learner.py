"""One optimizer step on a group of eight attempts: shared prefixes against separate rows, and against TRL.

    python benchmarks/learner.py --model FOLDER [--trl PYTHON] [--weights lora|full]
        [--precision fp32|bf16] [--short]

A group shares a fraction s of its tokens (the prompt), which separate rows compute eight times. The rest
alternates between runs of 16 sampled (trained) and 16 observed tokens. The bound is 1 / (s/8 + 1 - s),
counting all operations proportional to tokens. Each arm is its own process, and they alternate; TRL's (with
peft) has micro-batches of as many tokens, and no padding. With one thread, times are CPU times, which
neighbours disturb least; otherwise wall times. `--trl` names the Python of an environment with TRL and peft;
without it that ratio is null. `max_grad_diff` is the largest difference of any gradient entry. `memory_ratio`
compares the peaks of a step, over the memory before it, for a group of half the length in one micro-batch
(bounded micro-batches, as in the timed runs, bound memory too).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import LoraConfig, adapt, load
from agito.types import AttemptId, Sample, span
from harness import Json, report, spread

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))
from memory import peak_mb, reset_peak, resident_peak_mb  # type: ignore[import-not-found]  # noqa: E402

GROUP, RUN = 8, 16
TRAINER: dict[str, Any] = {"check_on_policy": False, "minibatches": 1, "rl": {"adam_lr": 1e-6}}


def batch(fraction: float, length: int, seed: int) -> dict[str, Any]:
    """A group as columns; all attempts have the same length."""
    rng = random.Random(seed)
    shared = round(fraction * length)
    prompt = [rng.randrange(1000, 40_000) for _ in range(shared)]
    completions = [[rng.randrange(1000, 40_000) for _ in range(length - shared)] for _ in range(GROUP)]
    trained = [[int(at // RUN % 2 == 0) for at in range(length - shared)]] * GROUP
    return {
        "prompts": [prompt] * GROUP,
        "completions": completions,
        "trained": trained,
        "advantages": [slot - 3.5 for slot in range(GROUP)],
    }


def samples(given: dict[str, Any]) -> list[Sample]:
    found: list[Sample] = []
    rows = zip(given["prompts"], given["completions"], given["trained"], given["advantages"], strict=True)
    for slot, (prompt, completion, trained, advantage) in enumerate(rows):
        ids, trainable = prompt + completion, [0] * len(prompt) + trained
        found.append(
            Sample(
                attempt=AttemptId(group=0, slot=slot),
                segment=0,
                ids=array("i", ids),
                trainable=bytes(trainable),
                logprobs=array("f", [-9.0] * len(ids)),
                advantages=array("f", [advantage * on for on in trainable]),
                versions=span(0, len(ids)),
            )
        )
    return found


def trainer_of(options: argparse.Namespace, share: str) -> LocalTrainer:
    torch.set_num_threads(options.threads)
    model = load(options.model, dtype=torch.bfloat16 if options.precision == "bf16" else torch.float32)
    if options.weights == "lora":
        adapt(model, LoraConfig(), seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_B"):  # away from zero, so that A learns too
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
    config = TRAINER | {
        "micro_tokens": options.micro_tokens,
        "share_prefixes": share,
        "keep_activations": not options.again,
    }
    trainer = LocalTrainer(model, TrainerConfig.model_validate(config))
    trainer.begin_phase("rl", 10_000)
    return trainer


def serve(options: argparse.Namespace) -> None:
    """An arm of ours: one step for every line of standard input."""
    trainer = trainer_of(options, options.arm)
    for line in sys.stdin:
        given = samples(json.loads(line))
        reset_peak()
        began, began_cpu = time.perf_counter(), time.process_time()
        trainer.step(given)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        found = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb(), "rss_mb": resident_peak_mb()}
        print(json.dumps(found), flush=True)


def gradient_difference(options: argparse.Namespace) -> None:
    """For every line: the largest difference over all entries, and the largest entry."""
    arms = {share: trainer_of(options, share) for share in ("never", "auto")}
    for line in sys.stdin:
        given, found = samples(json.loads(line)), list[torch.Tensor]()
        for trainer in arms.values():
            trainer.optimizer.zero()
            packs = trainer._pack(given)
            trainer._accumulate(packs, None, num_tokens=sum(sample.num_trainable for sample in given))
            found.append(torch.cat([gradient.flatten() for gradient in trainer.optimizer.gradients()]))
            trainer.optimizer.zero()
        print(json.dumps([float((found[0] - found[1]).abs().max()), float(found[0].abs().max())]), flush=True)


class Arm:
    """A process that takes one step per line."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self._command = command
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, given: dict[str, Any]) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError(f"{self._command[-1]}: ended with {self._process.wait()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def measured(options: argparse.Namespace) -> tuple[dict[str, Json], dict[str, Json]]:
    clock = "cpu_s" if options.threads == 1 else "wall_s"
    figures: dict[str, Json] = {}
    detail: dict[str, Json] = {
        "clock": clock,
        "length": options.length,
        "weights": options.weights,
        "precision": options.precision,
    }
    ours = our_command(options)
    differences = {} if options.no_gradients else asked_once([*ours, "gradients"], options, options.length)
    whole = [*ours[:-1], "--micro-tokens", str(GROUP * options.length), "--arm"]
    memory = {share: asked_once([*whole, share], options, options.length // 2) for share in ("never", "auto")}
    arms = {name: Arm(command, options.threads) for name, command in commands(options).items()}
    try:
        for arm in arms.values():
            arm.ask(batch(0.5, 64, 0))  # loads and warms up
        against: list[float] = []
        for fraction in options.fractions:
            rounds = [
                {name: arm.ask(batch(fraction, options.length, number)) for name, arm in arms.items()}
                for number in range(options.rounds)
            ]
            against += [each["trl"][clock] / each["rows"][clock] for each in rounds if "trl" in each]
            one_pass = {share: found[fraction]["peak_mb"] for share, found in memory.items()}
            difference = differences.get(fraction, [None, None])
            figures[str(fraction)], detail[str(fraction)] = summary(
                fraction, rounds, clock, one_pass, difference
            )
            print(
                f"{fraction}: {json.dumps(figures[str(fraction)])} {json.dumps(detail[str(fraction)])}",
                flush=True,
            )
        figures["ratio_vs_trl"] = round(statistics.median(against), 3) if against else None
        detail["ratio_vs_trl"] = spread(against) if against else None
    finally:
        for arm in arms.values():
            arm.close()
    return figures, detail


def our_command(options: argparse.Namespace) -> list[str]:
    """Up to the name of the arm."""
    shape = {
        "--model": options.model,
        "--weights": options.weights,
        "--precision": options.precision,
        "--threads": options.threads,
        "--micro-tokens": options.micro_tokens,
    }
    words = [word for name, value in shape.items() for word in (name, str(value))]
    return [sys.executable, __file__, *words, *(["--again"] if options.again else []), "--arm"]


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The timed arms."""
    ours = our_command(options)
    found = {"rows": [*ours, "never"], "shared": [*ours, "auto"]}
    if options.trl:
        rows = max(1, options.micro_tokens // options.length)
        found["trl"] = [
            options.trl,
            str(PEERS / "trl_step.py"),
            str(options.model),
            options.weights,
            options.precision,
            str(options.threads),
            str(1 << (min(rows, GROUP).bit_length() - 1)),
        ]
    return found


def summary(
    fraction: float,
    rounds: Sequence[dict[str, Any]],
    clock: str,
    one_pass_mb: dict[str, float],
    difference: Sequence[float | None],
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Figures and detail of one shared fraction."""
    speedups = [each["rows"][clock] / each["shared"][clock] for each in rounds]
    bound = 1 / (fraction / GROUP + 1 - fraction)
    figures: dict[str, Json] = {
        "speedup": round(statistics.median(speedups), 3),
        "of_bound": round(statistics.median(speedups) / bound, 3),
        "max_grad_diff": difference[0],
        "memory_ratio": round(one_pass_mb["never"] / one_pass_mb["auto"], 2),
    }
    detail: dict[str, Json] = {
        "speedup": spread(speedups),
        "peak_mb": {name: round(max(each[name]["peak_mb"] for each in rounds)) for name in rounds[0]},
        "one_pass_mb": {share: round(peak) for share, peak in one_pass_mb.items()},
        "max_gradient": difference[1],
        "seconds": {name: [round(each[name][clock], 2) for each in rounds] for name in rounds[0]},
        "rss_mb": {name: round(max(each[name]["rss_mb"] for each in rounds)) for name in ("rows", "shared")},
    }
    return figures, detail


def asked_once(command: list[str], options: argparse.Namespace, length: int) -> dict[float, Any]:
    """An arm's answer for every fraction."""
    arm = Arm(command, options.threads)
    try:
        arm.ask(batch(0.5, 64, 0))  # reads the weights from disk
        return {fraction: arm.ask(batch(fraction, length, 0)) for fraction in options.fractions}
    finally:
        arm.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--model", type=Path, default=Path("models/smollm2-135m"), help="a Hugging Face folder"
    )
    parser.add_argument("--trl", metavar="PYTHON", help="of an environment with TRL and peft")
    parser.add_argument("--weights", choices=["lora", "full"], default="lora")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--again", action="store_true", help="activations are computed again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-tokens", type=int, default=1024)
    parser.add_argument("--length", type=int, default=512, help="tokens of an attempt")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.6, 0.67, 0.8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-gradients", action="store_true", help="do not compare gradients")
    parser.add_argument("--short", action="store_true", help="one round of shorter attempts")
    parser.add_argument("--name", default="learner", help="of the file of results")
    parser.add_argument("--arm", choices=["never", "auto", "gradients"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.rounds, options.length = 1, 256
    if options.arm == "gradients":
        gradient_difference(options)
    elif options.arm:
        serve(options)
    else:
        report(options.name, *measured(options))


if __name__ == "__main__":
    main()
