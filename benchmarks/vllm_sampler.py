"""vLLM as the sampler of a LoRA policy in the real loop: sample on `shell`, learn, publish, resample, kill.

`python benchmarks/vllm_sampler.py --model FOLDER [--short] [--merged]`, with a folder made by `agito models
get smollm2-135m`, and vLLM from `make vllm` or AGITO_VLLM. The model's own tokenizer and template, fp32 on
both sides. Twice: a version is published, a group of episodes is played, and every sampled token is compared
with the learner at that version; in the second group the server is killed in mid-episode. `--merged`
publishes full weights with the adapter merged in, instead of the adapter.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import torch

from agito.harness import SoloHarness, solo
from agito.learning.credit import leave_one_out
from agito.learning.credit.segments import samples_of
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import Decoder, LoraConfig, adapt, merged_weights
from agito.protocols import MAIN
from agito.rollout import AttemptRunner, Plan
from agito.sampling.vllm import (
    AdapterSlots,
    KnownLogprobs,
    VllmSampler,
    VllmServer,
    VllmSpec,
    installed,
    serving,
)
from agito.types import Attempt, AttemptId, Group, Sample
from agito.weights.files import WeightFiles
from harness import Json, report
from skeleton import SEED, TRAINER, PrintedDict, Setup, at_trainable, logprobs, readable, told

LORA = LoraConfig()
GROUP_SIZE = 2
_LOOK_S = 0.1


class Served:
    """A policy that learns here and samples there."""

    def __init__(self, setup: Setup, sampler: VllmSampler, files: WeightFiles) -> None:
        self.setup, self.sampler, self.files = setup, sampler, files
        self.model = adapt(setup.model, LORA, seed=SEED)
        self.trainer = LocalTrainer(self.model, TrainerConfig.model_validate(TRAINER))
        opening = setup.renderer.opening(setup.task("heldout", 0)[0])
        self.text = opening[:160]

    def known(self) -> KnownLogprobs:
        return KnownLogprobs(ids=self.text, logprobs=array("f", scored(self.model, self.text).tolist()))

    async def publish(self, version: int) -> dict[str, Json]:
        began = time.monotonic()
        if self.sampler.capabilities.adapters:
            path = self.files.push_adapter(version, self.model, LORA, base=self.setup.folder)
        else:
            path = self.files.push(
                version,
                (
                    (name, each)
                    for name, each in merged_weights(self.model).items()
                    if name != "lm_head.weight"
                ),
            )
        self.trainer.version = version
        off = await self.sampler.publish(version, path, self.known())
        return {
            "version": version,
            "max": off.token,
            "mean": off.mean,
            "wall_s": round(time.monotonic() - began, 2),
        }

    async def play(self, number: int) -> Group:
        """One group, all attempts concurrently."""
        found: dict[int, Attempt] = {}
        runner = AttemptRunner(self.setup.environment, SoloHarness(), solo(self.setup.renderer), seed=SEED)
        plan = Plan(task=lambda group: self.setup.task("train", group))

        async def run(slot: int) -> None:
            found[slot] = await runner.run(plan, AttemptId(group=number, slot=slot), {MAIN: self.sampler})

        async with anyio.create_task_group() as tasks:
            for slot in range(GROUP_SIZE):
                tasks.start_soon(run, slot)
        attempts = tuple(found[slot] for slot in sorted(found))
        return Group(id=number, task=attempts[0].trajectory.task, attempts=attempts)


@torch.no_grad()
def scored(model: Decoder, ids: Sequence[int]) -> torch.Tensor:
    whole = torch.tensor(list(ids))
    logits = model.logits(model.hidden(whole, [len(whole)]))[:-1]
    return logits.log_softmax(-1).gather(1, whole[1:, None])[:, 0]


def off_by(model: Decoder, samples: Sequence[Sample]) -> dict[str, Json]:
    each = torch.cat(
        [logprobs(model, sample) - at_trainable(sample, sample.logprobs) for sample in samples]
    ).abs()
    return {"tokens": len(each), "max": float(each.max()), "mean": float(each.mean())}


def sampled(group: Group) -> list[Sample]:
    return [sample for attempt in group.attempts for sample in samples_of(attempt.trajectory, 1.0)]


async def kill_in_mid_episode(server: VllmServer) -> None:
    """Waits until a request is in flight."""
    process = server.process
    assert process is not None
    while process.num_waiting < GROUP_SIZE:  # noqa: ASYNC110 nothing says so
        await anyio.sleep(_LOOK_S)
    await anyio.sleep(1.0)
    keeper = process.keeper_pid
    (child,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.killpg(int(child), signal.SIGKILL)


async def run(setup: Setup, *, is_merged: bool) -> tuple[dict[str, Json], dict[str, Json]]:
    program = installed()
    if program is None:
        raise SystemExit("needs vLLM: make vllm, or AGITO_VLLM=PATH/bin/vllm")
    detail = PrintedDict()
    spec = VllmSpec(
        model=setup.folder,
        context=setup.limits["tokens"],
        max_num_seqs=8,
        program=program,
        adapters=None if is_merged else AdapterSlots(max_rank=LORA.rank),
    )
    began = time.monotonic()
    async with opened(setup, spec) as (server, served):
        first = await served.publish(1)
        detail["published_first"] = first | {"with_start_s": round(time.monotonic() - began, 1)}
        began = time.monotonic()
        group = await served.play(1000)
        detail["group"] = told([group], time.monotonic() - began)
        before = off_by(served.model, sampled(group))
        detail["sampler_vs_learner_before"] = before

        by = "reward" if group.has_variance else "readable" if readable(group).has_variance else "sign"
        learned = (
            signed(group)
            if by == "sign"
            else list(leave_one_out(group if by == "reward" else readable(group)))
        )
        served.trainer.begin_phase("rl", 1)
        loss = served.trainer.step(learned).values["policy/loss"]
        moved = off_by(served.model, sampled(group))
        detail["learner_moved"] = moved | {"by": by, "loss": loss}

        detail["published_second"] = await served.publish(2)
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_in_mid_episode, server)
            again = await served.play(1001)
        detail["group_with_a_kill"] = told([again], time.monotonic() - began) | {"servers": server.num_starts}
        after = off_by(served.model, sampled(again))
        detail["sampler_vs_learner_after"] = after
        versions = sorted({span.version for sample in sampled(again) for span in sample.versions})
    await setup.environment.aclose()
    figures: dict[str, Json] = {
        "mode": "merged" if is_merged else "adapter",
        "known_before": first["max"],
        "known_after": detail["published_second"]["max"],
        "sampler_vs_learner_before": before["max"],
        "sampler_vs_learner_after": after["max"],
        "learner_moved": moved["max"],
        "versions_after": versions,
        "servers": server.num_starts,
        "void": detail["group_with_a_kill"]["void"],
        "publish_s": detail["published_second"]["wall_s"],
        "tokens_s": detail["group"]["tokens_s"],
    }
    return figures, detail


@asynccontextmanager
async def opened(setup: Setup, spec: VllmSpec) -> AsyncGenerator[tuple[VllmServer, Served]]:
    with tempfile.TemporaryDirectory(prefix="agito-") as directory:
        async with serving(spec) as server:
            yield (
                server,
                Served(setup, VllmSampler(server, "policy"), WeightFiles(Path(directory), "policy", keep=3)),
            )


def signed(group: Group) -> list[Sample]:
    """If nothing distinguishes the attempts, reinforces only one, so that there is a step to publish."""
    signs = [1.0 if attempt.trajectory.attempt.slot % 2 == 0 else -1.0 for attempt in group.attempts]
    return [
        sample
        for sign, attempt in zip(signs, group.attempts, strict=True)
        for sample in samples_of(attempt.trajectory, sign)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--model", type=Path, default=Path("models/smollm2-135m"), help="a Hugging Face folder"
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--merged", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setup = Setup(arguments.model.resolve(), arguments.short)
    if arguments.short:
        setup.limits["turn_tokens"] = 24
    figures, detail = anyio.run(lambda: run(setup, is_merged=arguments.merged))
    report("vllm_sampler_merged" if arguments.merged else "vllm_sampler", figures, detail)


if __name__ == "__main__":
    main()
