"""The worker: policies by id, each with a sampler and possibly a learner. The process ends with its
connection."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from agito.errors import BadRecipe
from agito.learning.trainer.network_reducer import NetworkReducer, Store, connect_store, host_store
from agito.learning.trainer.reducer import OneRank, Reducer, SharedReducer
from agito.models import Decoder
from agito.models.eager import without_compiler
from agito.runtime.fork_server import accepted, forked
from agito.runtime.freed_memory import give_back
from agito.runtime.learner import LearnerService
from agito.runtime.local_process import serve
from agito.runtime.network import adapter_of, frozen, learning, open_model
from agito.runtime.sampler import SamplerService
from agito.runtime.transport import Handler
from agito.runtime.wire import (
    LearnerGroup,
    OfferRendezvous,
    OpenPolicy,
    PolicyId,
    PolicyOpened,
    PullWeights,
    Rendezvous,
    SamplerSpec,
    WorkerRequest,
    WorkerResponse,
)
from agito.sampling.wire import EngineRequest, ScoreRequest
from agito.weights.address import OverNetwork, SharedMemory
from agito.weights.channel import WeightBuffer, WeightChannel
from agito.weights.network import FetchedWeights

_NICE = 10  # tools and episodes go first: they need little, and everything waits for them
_LEARNER_NICE = 5  # more, where others sample meanwhile: sampling soon hits the staleness bound and stalls


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    sampler: SamplerService | None
    learner: LearnerService | None


class WorkerHandler:
    """A `Handler` for requests to all policies of this process."""

    def __init__(self, *, is_own_process: bool = False, host: str | None = None) -> None:
        """`host`: the address at which other machines reach this one; None: everything is on this one."""
        self._may_renice, self._host = is_own_process, host
        self._store: Store | None = None  # rendezvous of the learners, if hosted here
        self._policies: dict[PolicyId, _Policy] = {}
        self._reducer: Reducer | None = None  # torch has one process group

    def __call__(self, policy: PolicyId, request: WorkerRequest) -> WorkerResponse:
        answer = self._answer(policy, request)
        if not isinstance(request, EngineRequest):  # of which there are many, and each needs little
            give_back()
        return answer

    def _answer(self, policy: PolicyId, request: WorkerRequest) -> WorkerResponse:
        if isinstance(request, OpenPolicy):
            return self._open(policy, request)
        if isinstance(request, OfferRendezvous):
            return self._rendezvous(request)
        found = self._policies.get(policy)
        if found is None:
            raise LookupError(f"policy {policy!r} is not open here; there are {sorted(self._policies)}")
        if isinstance(request, EngineRequest | ScoreRequest | PullWeights):
            if found.sampler is None:
                raise LookupError(f"policy {policy!r} is not sampled here")
            return found.sampler.handle(request)
        if found.learner is None:
            raise LookupError(f"policy {policy!r} does not learn here")
        return found.learner.handle(request)

    def _open(self, policy: PolicyId, request: OpenPolicy) -> PolicyOpened:
        replaced = self._policies.pop(policy, None)  # free its memory first
        if replaced is not None and replaced.learner is not None:
            replaced.learner.close()
        del replaced
        _require_device(request.device)
        model = open_model(request.model, request.device)
        learner = None
        if request.learner is not None:
            reducer = self._reducer_of(request.learner.group)
            reducer.unite(list(frozen(model)))
            learner = LearnerService(
                model,
                request.learner,
                reducer,
                adapter=adapter_of(request.model),
                host=self._host,
            )
            if request.learner.serves_others and self._may_renice:
                os.nice(_LEARNER_NICE)
                self._may_renice = False
        sampler = None
        if request.sampler is not None:
            sampler = SamplerService(model, request.sampler, _channel(model, request.sampler, learner))
        self._policies[policy] = _Policy(sampler=sampler, learner=learner)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        return PolicyOpened(num_parameters=num_parameters, weights=learner.shared if learner else None)

    def _reducer_of(self, group: LearnerGroup | None) -> Reducer:
        if group is None:
            return OneRank()
        self._reducer = self._reducer or self._new_reducer(group)
        if (self._reducer.rank, self._reducer.num_ranks) != (group.rank, group.size):
            raise ValueError(
                f"this process already learns as {self._reducer.rank} of {self._reducer.num_ranks}, not as "
                f"{group}"
            )
        return self._reducer

    def _new_reducer(self, group: LearnerGroup) -> Reducer:
        if self._host is None:
            return SharedReducer(group.rank, group.size, Path(group.rendezvous.removeprefix("file://")))
        store = self._store if group.rank == 0 else None
        return NetworkReducer(
            group.rank, group.size, store or connect_store(group.rendezvous), host=self._host
        )

    def _rendezvous(self, request: OfferRendezvous) -> Rendezvous:
        if self._host is None:
            return Rendezvous(address=f"file://{request.directory / 'learners'}")
        self._store, address = host_store(self._host)
        return Rendezvous(address=address)


def _channel(model: Decoder, spec: SamplerSpec, learner: LearnerService | None) -> WeightChannel | None:
    match spec.weights:
        case SharedMemory():
            return WeightBuffer.open(spec.weights, learning(model))
        case OverNetwork():
            return FetchedWeights(spec.weights, learning(model))
        case None:
            return learner.own if learner is not None else None


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
    except (AssertionError, RuntimeError) as error:
        build = (
            "this build of torch has no CUDA: make setup TORCH=cuda"
            if not torch.backends.cuda.is_built()
            else error
        )
        raise BadRecipe(f"compute.device={device}: {build}") from None


def on_cluster(host: str) -> Handler:
    """For a process started by a cluster; `host`: the address at which other machines reach it."""
    torch.set_num_threads(1)
    without_compiler()
    return WorkerHandler(is_own_process=True, host=host)


def main() -> None:
    """A server that forks workers, see `fork_server.py`, and in its children the worker."""
    torch.set_num_threads(1)
    without_compiler()
    control = socket.socket(fileno=int(sys.argv[1]))
    if control.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        control = accepted(control)
    link, _ = forked(control)
    os.nice(_NICE)
    with link:
        serve(link, WorkerHandler(is_own_process=True))


if __name__ == "__main__":
    main()
