"""A pre-trained model through the whole loop: parity, zero-shot evaluation, SFT and one RL step with LoRA.

`python benchmarks/skeleton.py --model FOLDER [--short]`, with a folder made by `agito models get
smollm2-135m`. Runs on `shell`, all in this process, in fp32: the model's own tokenizer and chat template, the
embedded engine, the real sandbox, the trainer. It shows that the parts fit together and what they cost; a few
steps teach nothing. If all attempts at a task earn the same, the RL step uses the share of readable calls as
the reward, and says so.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import torch

from agito.envs import load as load_environment
from agito.harness import SoloHarness, solo
from agito.learning.credit import leave_one_out
from agito.learning.credit.demonstrations import demonstrations
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import Decoder, LoraConfig, adapt, load, num_params
from agito.protocols import MAIN, Environment, Renderer
from agito.render import read_chat
from agito.rollout import AttemptRunner, Plan, collect
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.lockstep import Lockstep
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse
from agito.scheduling.sync_scheduler import Quota
from agito.types import Attempt, Dialect, Group, Sample, Target, Task
from harness import Json, report

SEED, ROWS, LEVEL = 0, 8, 1
TRAINER = {
    "sft": {"adam_lr": 1e-3, "warmup": 0.0},
    "rl": {"adam_lr": 1e-4},
    "minibatches": 1,
    "micro_tokens": 512,
}


class Setup:
    """The model, its environment, and how long things take."""

    def __init__(self, folder: Path, short: bool) -> None:
        self.folder, self.short = folder, short
        self.environment: Environment = load_environment("shell")
        self.renderer: Renderer = read_chat(folder)
        self.model = load(folder, dtype=torch.float32)
        self.limits = (
            {"turns": 2, "turn_tokens": 48, "tokens": 720} if short else {"turns": 8, "tokens": 1856}
        )

    def task(self, split: str, index: int) -> tuple[Task, Target]:
        family = self.environment.families[index % len(self.environment.families)]
        task, target = self.environment.task(split=split, index=index, seed=SEED, family=family, level=LEVEL)
        task = task.in_dialect(Dialect.NATURAL)
        return replace(task, limits=replace(task.limits, **self.limits)), target

    async def play(
        self, engine: EmbeddedEngine, split: str, first: int, num: int, group_size: int
    ) -> tuple[Group, ...]:
        async def advance(exchange: EngineRequest) -> EngineResponse:
            return engine.advance(exchange)

        runner = AttemptRunner(self.environment, SoloHarness(), solo(self.renderer), seed=SEED)
        lockstep = Lockstep({MAIN: EngineClient(advance=advance, context=engine.context)}, steps=8)
        quota = Quota(ids=range(first, first + num), group_size=group_size, max_live=ROWS)
        return (
            await collect(runner, Plan(task=lambda group: self.task(split, group)), quota, lockstep)
        ).groups

    async def demonstrations(self, num: int) -> list[Sample]:
        runner = AttemptRunner(self.environment, SoloHarness(), solo(self.renderer), seed=SEED)
        plan = Plan(
            task=lambda group: self.task("train", group),
            script=lambda task, target, attempt: self.environment.demonstrator(
                task, target, skill=0.9, seed=attempt.group
            ),
        )
        found = await collect(runner, plan, Quota(ids=range(num), group_size=1, max_live=4), None)
        return [
            sample
            for attempt in found.attempts
            if attempt.is_trusted
            for sample in demonstrations(attempt.trajectory)
        ]


class PrintedDict(dict[str, Any]):
    """Prints each part as soon as it is known."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        print(f"{key}: {value}", flush=True)


def parity(model: Decoder, folder: Path) -> dict[str, Json]:
    """The largest differences from `transformers` over an ordinary text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, other = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
    )
    text = "The capital of France is Paris. def f(x):\n    return x + 1\n\n" + " ".join(
        str(number * 37 % 101) for number in range(60)
    )
    ids = torch.tensor(tokenizer(text)["input_ids"])
    with torch.no_grad():
        ours, theirs = model(ids, [len(ids)]), other(ids[None]).logits[0]
    log_difference = ours.log_softmax(-1) - theirs.log_softmax(-1)
    return {
        "tokens": len(ids),
        "logits": float((ours - theirs).abs().max()),
        "logprobs": float(log_difference.abs().max()),
    }


def told(groups: Sequence[Group], wall_s: float) -> dict[str, Json]:
    attempts = [attempt for group in groups for attempt in group.attempts]
    events = [event for attempt in attempts for event in attempt.trajectory.events]
    rewards = [attempt.verdict.reward for attempt in attempts if attempt.is_scored]
    sampled = sum(attempt.trajectory.num_sampled for attempt in attempts)
    return {
        "attempts": len(attempts),
        "void": len(attempts) - len(rewards),
        "reward": round(sum(rewards) / max(len(rewards), 1), 4),
        "sampled_tokens": sampled,
        "tokens_s": round(sampled / wall_s, 1),
        "calls": len(events),
        "unread_calls": sum(event.call.problem is not None for event in events),
        "ends": sorted({attempt.trajectory.end.value for attempt in attempts}),
        "wall_s": round(wall_s, 1),
    }


@torch.no_grad()
def logprobs(model: Decoder, sample: Sample) -> torch.Tensor:
    """Of the trainable tokens."""
    ids = torch.tensor(sample.ids)
    at = torch.tensor([position for position, trains in enumerate(sample.trainable) if trains])
    log_TV = model.logits(model.hidden(ids, [len(ids)])[at - 1]).log_softmax(-1)
    return log_TV.gather(1, ids[at][:, None])[:, 0]


def at_trainable(sample: Sample, column: Sequence[float]) -> torch.Tensor:
    return torch.tensor([value for value, trains in zip(column, sample.trainable, strict=True) if trains])


def nll(model: Decoder, samples: Sequence[Sample]) -> float:
    found = torch.cat([logprobs(model, sample) for sample in samples])
    return -float(found.mean())


def objective(logprobs_of: Sequence[torch.Tensor], samples: Sequence[Sample]) -> float:
    """Advantage times log-probability, per token."""
    parts = [
        found * at_trainable(sample, sample.advantages)
        for found, sample in zip(logprobs_of, samples, strict=True)
    ]
    return float(torch.cat(parts).mean())


def readable(group: Group) -> Group:
    """The group with the share of readable calls as the reward."""

    def judged(attempt: Attempt) -> Attempt:
        events = attempt.trajectory.events
        share = sum(event.call.problem is None for event in events) / max(len(events), 1)
        return (
            replace(attempt, verdict=replace(attempt.verdict, reward=share)) if attempt.is_scored else attempt
        )

    return replace(group, attempts=tuple(map(judged, group.attempts)))


async def run(setup: Setup) -> tuple[dict[str, Json], dict[str, Json]]:
    model, detail = setup.model, PrintedDict()
    detail["parity"] = parity(model, setup.folder)
    adapt(model, LoraConfig(), seed=SEED)
    trainer = LocalTrainer(model, TrainerConfig.model_validate(TRAINER))
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    detail["parameters"] = {"all": num_params(model), "learning": learning}
    engine = EmbeddedEngine(model, rows=ROWS, context=setup.limits["tokens"])

    began = time.monotonic()
    zero_shot = await setup.play(engine, "heldout", 0, 2 if setup.short else 16, 1)
    detail["zero_shot"] = told(zero_shot, time.monotonic() - began)

    samples = await setup.demonstrations(6 if setup.short else 64)
    detail["sft"] = imitated(setup, trainer, samples)

    publish(engine, model, trainer)
    began = time.monotonic()
    groups = await setup.play(engine, "train", 1000, 1 if setup.short else 4, 4)
    detail["groups"] = told(groups, time.monotonic() - began)
    detail |= reinforced(model, trainer, groups)

    publish(engine, model, trainer)
    began = time.monotonic()
    again = await setup.play(engine, "heldout", 0, 1, 1)
    detail["after_publish"] = told(again, time.monotonic() - began) | {"version": engine.version}
    await setup.environment.aclose()
    figures: dict[str, Json] = {
        "parity_logprobs": detail["parity"]["logprobs"],
        "zero_shot": detail["zero_shot"]["reward"],
        "sft_loss": [detail["sft"]["before"], detail["sft"]["after"]],
        "rl_objective": detail["rl"]["objective"],
        "rl_by": detail["rl"]["by"],
        "sampler_vs_learner": detail["sampler_vs_learner"]["max"],
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return figures, detail


def publish(engine: EmbeddedEngine, model: Decoder, trainer: LocalTrainer) -> None:
    engine.drop_all()
    engine.load_weights(model, trainer.version)


def imitated(setup: Setup, trainer: LocalTrainer, samples: Sequence[Sample]) -> dict[str, Any]:
    """SFT steps on demonstrations."""
    trainer.begin_phase("sft", steps := 3 if setup.short else 32)
    size = 2 if setup.short else 4
    before, began, losses = nll(setup.model, samples[:size]), time.monotonic(), list[float]()
    for step in range(steps):
        batch = [samples[(step * size + number) % len(samples)] for number in range(size)]
        losses.append(round(trainer.sft_step(batch).values["sft/loss_nats"], 4))
    tokens = steps * size * sum(len(sample.ids) for sample in samples) / len(samples)
    wall_s = time.monotonic() - began
    return {
        "loss_nats": losses,
        "before": before,
        "after": nll(setup.model, samples[:size]),
        "tokens_s": round(tokens / wall_s, 1),
    }


def reinforced(model: Decoder, trainer: LocalTrainer, groups: Sequence[Group]) -> dict[str, Any]:
    """One RL step, and how far the sampler's log-probabilities are from the learner's before it."""
    by = "reward" if any(group.has_variance for group in groups) else "readable"
    learned = [
        sample for group in groups for sample in leave_one_out(group if by == "reward" else readable(group))
    ]
    known = [logprobs(model, sample) for sample in learned]
    difference = torch.cat(
        [found - at_trainable(sample, sample.logprobs) for found, sample in zip(known, learned, strict=True)]
    )
    trainer.begin_phase("rl", 1)
    before, began = objective(known, learned), time.monotonic()
    stats = trainer.step(learned)
    wall_s = time.monotonic() - began
    after = objective([logprobs(model, sample) for sample in learned], learned)
    return {
        "sampler_vs_learner": {
            "tokens": len(difference),
            "max": float(difference.abs().max()),
            "mean": float(difference.abs().mean()),
        },
        "rl": {
            "by": by,
            "objective": [before, after],
            "loss": stats.values["policy/loss"],
            "wall_s": round(wall_s, 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--model", type=Path, default=Path("models/smollm2-135m"), help="a Hugging Face folder"
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures, detail = anyio.run(run, Setup(arguments.model, arguments.short))
    report("skeleton", figures, detail)


if __name__ == "__main__":
    main()
