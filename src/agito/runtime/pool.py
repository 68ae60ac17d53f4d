"""The workers of one run, and the policies that are open in them.

A policy has a sampler in every worker. Where all learn together, every worker also has the learner's weights and a part of each batch, and
they sum their gradients among themselves. Where the first learns alone, the others sample, with weights that they pull from it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agito.models.config import Qwen3Config
from agito.runtime.client import FAREWELL_S, START_S, Worker, together
from agito.runtime.pipes import launch
from agito.runtime.remote import RemoteLearner, RemoteSampler
from agito.runtime.roles import PolicyHandle
from agito.runtime.transport import Launch
from agito.runtime.wire import LearnerGroup, LearnerSpec, OpenPolicy, PolicyId, PolicyOpened, SamplerSpec
from agito.trainer.config import TrainerConfig
from agito.weights.address import SharedMemory

SILENCE_S = 300.0  # after which a worker that has not answered is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """What a policy is made of, and how it is spread over the workers of a pool."""

    model: Qwen3Config
    trainer: TrainerConfig
    seed: int
    device: str
    context: int  # tokens of one sequence
    max_num_seqs: int  # that one worker samples at once
    learns_alone: bool = False  # the first worker learns while the others sample


class WorkerPool:
    """A fixed number of workers."""

    def __init__(self, num_workers: int, *, start: Launch = launch, silence_s: float = SILENCE_S) -> None:
        """Starts them; they come up by themselves while something else is done. One that has not answered a request for `silence_s` is
        given up: the request, and every later one, raises `WorkerDied`."""
        self._directory = Path(tempfile.mkdtemp(prefix="agito-"))  # where those that learn together meet
        self.workers = tuple(Worker(rank, start(rank), silence_s) for rank in range(num_workers))

    async def open(self, policy: PolicyId, plan: PolicyPlan) -> PolicyHandle:
        """One that is open under this id is replaced. Raises `BadRecipe` for a device that is not there, and `WorkerDied` when a worker did
        not come up."""
        learners = self.workers[:1] if plan.learns_alone else self.workers
        calls = [
            partial(
                _open, worker, policy, plan, serves_others=plan.learns_alone,
                group=LearnerGroup(rank=rank, size=len(learners), rendezvous=self._directory / "learners"),
            ) for rank, worker in enumerate(learners)
        ]  # fmt: skip
        opened = await together(learners, calls)
        others = self.workers[len(learners) :]
        await together(others, [partial(_open, worker, policy, plan, weights=opened[0].weights) for worker in others])
        return PolicyHandle(
            learner=RemoteLearner(policy, learners),
            samplers=tuple(RemoteSampler(policy, worker) for worker in self.workers),
            learns_alone=plan.learns_alone,
        )

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
    group: LearnerGroup | None = None,
    serves_others: bool = False,
    weights: SharedMemory | None = None,
) -> PolicyOpened:
    """A learner as part of `group`, or none, and a sampler."""
    request = OpenPolicy(
        model=plan.model,
        seed=plan.seed,
        device=plan.device,
        learner=None if group is None else LearnerSpec(config=plan.trainer, group=group, serves_others=serves_others),
        sampler=SamplerSpec(context=plan.context, max_num_seqs=plan.max_num_seqs, weights=weights),
    )
    return await worker.ask(policy, request, PolicyOpened, deadline_s=max(worker.silence_s, START_S))
