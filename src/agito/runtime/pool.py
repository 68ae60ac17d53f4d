"""The workers of one run, and the policies that are open in them.

A policy has a sampler in every worker. Where all learn together, every worker also has the learner's weights
and a part of each batch, and they sum their gradients among themselves. Where the first learns alone, the
others sample, with weights that they pull from it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from agito.learning.trainer.config import TrainerConfig
from agito.runtime.client import FAREWELL_S, START_S, Worker, together
from agito.runtime.pipes import launch
from agito.runtime.remote import RemoteLearner, RemoteSampler
from agito.runtime.roles import PolicyHandle, Sampler
from agito.runtime.transport import Launch
from agito.runtime.wire import (
    LearnerGroup,
    LearnerSpec,
    ModelSpec,
    OfferRendezvous,
    OpenPolicy,
    PolicyId,
    PolicyOpened,
    Rendezvous,
    SamplerSpec,
)
from agito.weights.address import WeightAddress

SILENCE_S = 300.0  # after which a worker that has not answered is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """What a policy is made of, and how it is spread over the workers of a pool."""

    model: ModelSpec
    trainer: TrainerConfig
    device: str
    context: int  # tokens of one sequence
    max_num_seqs: int  # that one worker samples at once
    learns_alone: bool = False  # the first worker learns while the others sample
    is_sampled_here: bool = True  # else by a server of another kind


class WorkerPool:
    """A fixed number of workers."""

    def __init__(self, num_workers: int, *, start: Launch = launch, silence_s: float = SILENCE_S) -> None:
        """Starts them; they come up by themselves while something else is done. One that has not answered a
        request for `silence_s` is given up: the request, and every later one, raises `WorkerDied`.
        """
        # where those that learn together meet, on one machine
        self._directory = Path(tempfile.mkdtemp(prefix="agito-"))
        self._rendezvous = ""  # once the first of them has offered it
        self.workers = tuple(Worker(rank, start(rank), silence_s) for rank in range(num_workers))
        # those that sum their gradients must all be asked in the same order
        self._learners_turn = anyio.Lock()

    async def open(self, policy: PolicyId, plan: PolicyPlan) -> PolicyHandle:
        """One that is open under this id is replaced.

        Raises `BadRecipe` for a device that is not there, `WorkerDied` when a worker did not come up, and
        what reading the weights raises.
        """
        learners = self.workers[:1] if plan.learns_alone else self.workers
        specs = [
            LearnerSpec(
                config=plan.trainer,
                group=group,
                serves_others=plan.learns_alone and plan.is_sampled_here,
            )
            for group in await self._groups(policy, len(learners))
        ]
        opened = await together(
            learners,
            [
                partial(_open, worker, policy, plan, learner=spec)
                for worker, spec in zip(learners, specs, strict=True)
            ],
        )
        others = self.workers[len(learners) :] if plan.is_sampled_here else ()
        await together(
            others, [partial(_open, worker, policy, plan, weights=opened[0].weights) for worker in others]
        )
        return PolicyHandle(
            learner=RemoteLearner(
                policy, learners, self._learners_turn, keeps_groups=isinstance(plan.model.source, Path)
            ),
            samplers=tuple(RemoteSampler(policy, worker) for worker in self.workers if plan.is_sampled_here),
            learns_alone=plan.learns_alone,
        )

    async def open_frozen(self, policy: PolicyId, plan: PolicyPlan) -> tuple[Sampler, ...]:
        """A policy that only samples, in every worker. Raises as `open`."""
        await together(self.workers, [partial(_open, worker, policy, plan) for worker in self.workers])
        return tuple(RemoteSampler(policy, worker) for worker in self.workers)

    async def _groups(self, policy: PolicyId, size: int) -> list[LearnerGroup | None]:
        if size == 1:
            return [None]
        if not self._rendezvous:
            first, offer = self.workers[0], OfferRendezvous(directory=self._directory)
            offered = await first.ask(policy, offer, Rendezvous, deadline_s=max(first.silence_s, START_S))
            self._rendezvous = offered.address
        return [LearnerGroup(rank=rank, size=size, rendezvous=self._rendezvous) for rank in range(size)]

    async def aclose(self) -> None:
        """Idempotent. Afterwards the workers' CPU time is in this process's children's."""
        for worker in self.workers:
            worker.close()
        until = time.monotonic() + FAREWELL_S
        for worker in self.workers:
            await worker.join(until)
        shutil.rmtree(self._directory, ignore_errors=True)


async def _open(
    worker: Worker,
    policy: PolicyId,
    plan: PolicyPlan,
    *,
    learner: LearnerSpec | None = None,
    weights: WeightAddress | None = None,
) -> PolicyOpened:
    """A sampler, and a learner or none."""
    sampler = SamplerSpec(context=plan.context, max_num_seqs=plan.max_num_seqs, weights=weights)
    request = OpenPolicy(
        model=plan.model,
        device=plan.device,
        learner=learner,
        sampler=sampler if plan.is_sampled_here else None,
    )
    return await worker.ask(policy, request, PolicyOpened, deadline_s=max(worker.silence_s, START_S))
