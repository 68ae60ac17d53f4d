"""The workers of one run, and the policies open in them.

A policy has a sampler in every worker. If all workers learn together, each also holds the learner's weights,
trains on a part of each batch, and they sum gradients. If the first worker learns alone, the others sample
with weights that they pull from it.
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
from agito.runtime.client import FAREWELL_S, START_S, WorkerClient, call_all
from agito.runtime.local_process import launch
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

SILENCE_S = 300.0  # without an answer, after which a worker is abandoned


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """A policy's parts, and how they are spread over the workers of a pool."""

    model: ModelSpec
    trainer: TrainerConfig
    device: str
    context: int  # tokens of one sequence
    max_num_seqs: int  # sampled at once per worker
    learns_alone: bool = False  # the first worker learns while the others sample
    is_sampled_here: bool = True  # otherwise by a server


class WorkerPool:
    """A fixed number of workers."""

    def __init__(self, num_workers: int, *, start: Launch = launch, silence_s: float = SILENCE_S) -> None:
        """Starts them; they come up in the background. A worker that does not answer a request for
        `silence_s` is abandoned: that request and every later one raises `WorkerDied`."""
        # Rendezvous file of learners on one machine.
        self._directory = Path(tempfile.mkdtemp(prefix="agito-"))
        self._rendezvous = ""  # set by the first learner
        self.workers = tuple(WorkerClient(rank, start(rank), silence_s) for rank in range(num_workers))
        # Workers that sum gradients must receive requests in the same order.
        self._learners_turn = anyio.Lock()

    async def open(self, policy: PolicyId, plan: PolicyPlan) -> PolicyHandle:
        """Opens a policy, replacing an open one of this id.

        Raises `BadRecipe` for a missing device, `WorkerDied` when a worker did not come up, and the errors of
        reading weights.
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
        opened = await call_all(
            learners,
            [
                partial(_open, worker, policy, plan, learner=spec)
                for worker, spec in zip(learners, specs, strict=True)
            ],
        )
        others = self.workers[len(learners) :] if plan.is_sampled_here else ()
        await call_all(
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
        """A sampling-only policy, in every worker. Raises as `open`."""
        await call_all(self.workers, [partial(_open, worker, policy, plan) for worker in self.workers])
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
        """Idempotent. Afterwards the workers' CPU time counts among this process's children."""
        for worker in self.workers:
            worker.close()
        until = time.monotonic() + FAREWELL_S
        for worker in self.workers:
            await worker.join(until)
        shutil.rmtree(self._directory, ignore_errors=True)


async def _open(
    worker: WorkerClient,
    policy: PolicyId,
    plan: PolicyPlan,
    *,
    learner: LearnerSpec | None = None,
    weights: WeightAddress | None = None,
) -> PolicyOpened:
    """Opens a sampler and optionally a learner."""
    sampler = SamplerSpec(context=plan.context, max_num_seqs=plan.max_num_seqs, weights=weights)
    request = OpenPolicy(
        model=plan.model,
        device=plan.device,
        learner=learner,
        sampler=sampler if plan.is_sampled_here else None,
    )
    return await worker.ask(policy, request, PolicyOpened, deadline_s=max(worker.silence_s, START_S))
