"""A real vLLM server as the sampler of a small model with random weights. AGITO_VLLM names the program,
unless `make vllm` made it.
"""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import safetensors.torch
import torch
from torch import Tensor

from agito.models import Decoder, DecoderConfig, LoraConfig, adapt, merged_weights, save, save_adapter
from agito.protocols import Sampled, SampleRequest
from agito.sampling.vllm import (
    AdapterSlots,
    KnownLogprobs,
    VllmSampler,
    VllmServer,
    VllmSpec,
    WrongWeights,
    installed,
    serving,
)

pytestmark = [
    pytest.mark.full,
    pytest.mark.anyio,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        installed() is None, reason="needs vLLM: make vllm, and AGITO_VLLM where it is elsewhere"
    ),
]

SHAPE = DecoderConfig(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=192,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    max_position=512,
    family="llama",
    qk_norm=False,
)
LORA = LoraConfig(rank=8, alpha=16)
TEXT = array("i", [number * 37 % 251 for number in range(200)])


@dataclass
class Learner:
    """A model on the disk, and the same one with an adapter that is moved by hand."""

    folder: Path
    model: Decoder

    @classmethod
    def create(cls, folder: Path) -> Learner:
        model = Decoder(SHAPE, seed=1)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(8.0)  # far from uniform
        save(model, folder / "base")
        return cls(folder, adapt(model, LORA, seed=2))

    def move(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.endswith("lora_B"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def write(self, version: int, *, is_adapter: bool) -> Path:
        path = self.folder / f"policy@{version}"
        if is_adapter:
            save_adapter(self.model, LORA, path, base=str(self.folder / "base"))
        else:
            merged = {
                name: tensor.clone()
                for name, tensor in merged_weights(self.model).items()
                if name != "lm_head.weight"
            }
            safetensors.torch.save_file(merged, path, metadata={"format": "pt"})
        return path

    def known(self) -> KnownLogprobs:
        return KnownLogprobs(ids=TEXT, logprobs=array("f", self.logprobs(TEXT).tolist()))

    @torch.no_grad()
    def logprobs(self, ids: Sequence[int], temperature: float = 1.0) -> Tensor:
        """Of all but the first."""
        whole = torch.tensor(list(ids))
        logits = self.model.logits(self.model.hidden(whole, [len(whole)]))[:-1] / temperature
        return logits.log_softmax(-1).gather(1, whole[1:, None])[:, 0]

    def off(self, past: Sequence[int], sampled: Sampled, temperature: float = 1.0) -> float:
        """The largest difference from the sampler."""
        ours = self.logprobs([*past, *sampled.ids], temperature)[len(past) - 1 :]
        return float((ours - torch.tensor(sampled.logprobs)).abs().max())


def ask(*extend: int, most: int = 12, temperature: float = 1.0) -> SampleRequest:
    return SampleRequest(
        extend=array("i", extend or TEXT[:40]), max_tokens=most, stop_ids=(), temperature=temperature
    )


@asynccontextmanager
async def opened(
    folder: Path, *, is_adapter: bool
) -> AsyncGenerator[tuple[VllmServer, VllmSampler, Learner]]:
    learner, program = Learner.create(folder), installed()
    assert program is not None
    spec = VllmSpec(
        model=folder / "base",
        context=512,
        max_num_seqs=8,
        program=program,
        adapters=AdapterSlots(max_rank=LORA.rank) if is_adapter else None,
    )
    async with serving(spec) as server:
        yield server, VllmSampler(server, "policy"), learner


def kill(server: VllmServer) -> None:
    """The server, and not who keeps it."""
    assert server.process is not None
    keeper = server.process.keeper_pid
    (child,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.killpg(int(child), signal.SIGKILL)


async def test_adapters_are_exact_at_each_version_and_a_request_under_way_keeps_its_own(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, is_adapter=True) as (server, sampler, learner):
        learner.move(1)
        off = await sampler.publish(1, learner.write(1, is_adapter=True), learner.known())
        assert off.token < 1e-4
        row = sampler.open(1)
        first = await row.sample(ask())
        assert learner.off(TEXT[:40], first) < 1e-4
        hot = await sampler.open(2).sample(ask(temperature=0.7))
        assert learner.off(TEXT[:40], hot, 0.7) < 1e-4
        long = list[Sampled]()

        async def sample() -> None:
            long.append(await sampler.open(5).sample(ask(most=300)))

        later = Learner(tmp_path, learner.model)
        before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sample)
            await anyio.sleep(0.2)
            later.move(2)
            await sampler.publish(2, later.write(2, is_adapter=True), later.known())
            second = await row.sample(ask(9, 9))
        assert second.versions[0].version == 2
        assert later.off([*TEXT[:40], *first.ids, 9, 9], second) < 1e-4
        learner.model.load_state_dict(before)
        assert long[0].versions[0].version == 1 and learner.off(TEXT[:40], long[0]) < 1e-4
        kill(server)
        learner.move(2)
        third = await row.sample(ask(9))
        assert learner.off([*TEXT[:40], *first.ids, 9, 9, *second.ids, 9], third) < 1e-4
        assert server.num_starts == 2


async def test_full_weights_are_exact_before_and_after_an_update_in_mid_request(tmp_path: Path) -> None:
    async with opened(tmp_path, is_adapter=False) as (server, sampler, learner):
        learner.move(1)
        assert (await sampler.publish(1, learner.write(1, is_adapter=False), learner.known())).token < 1e-4
        assert learner.off(TEXT[:40], await sampler.open(1).sample(ask())) < 1e-4
        before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        answers = list[Sampled]()

        async def sample() -> None:
            """One after the other, so that one is under way whenever the weights come."""
            while not answers or answers[-1].versions[-1].version == 1:
                answers.append(await sampler.open(5).sample(ask(most=400)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sample)
            await anyio.sleep(0.3)
            learner.move(2)
            assert (
                await sampler.publish(2, learner.write(2, is_adapter=False), learner.known())
            ).token < 1e-4
        *_, mixed = answers
        assert [span.version for span in mixed.versions] == [1, 2]
        cut, whole = mixed.versions[1].start, [*TEXT[:40], *mixed.ids]
        new = learner.logprobs(whole)[cut - 1 :] - torch.tensor(mixed.logprobs[cut - 40 :])
        assert float(new.abs().max()) < 1e-4
        learner.model.load_state_dict(before)
        old = learner.logprobs(whole)[39 : cut - 1] - torch.tensor(mixed.logprobs[: cut - 40])
        assert float(old.abs().max()) < 1e-4
        learner.move(2)
        with pytest.raises(WrongWeights):
            await sampler.publish(
                3,
                learner.write(3, is_adapter=False),
                KnownLogprobs(ids=TEXT, logprobs=array("f", [-1.0] * 199)),
            )
        assert (await sampler.open(1).sample(ask())).versions[0].version == 2
        assert server.num_starts == 2
