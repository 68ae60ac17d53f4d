"""Requests to a worker process and its responses; torch-free, picklable, the same over every transport.

Each request is answered by one response with its id, and names its policy, because a process may hold
several. `EngineRequest` and `EngineResponse` belong to the engine; see `agito.sampling.wire`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from agito.learning.trainer.config import Phase, TrainerConfig
from agito.models.config import DecoderConfig, LoraConfig
from agito.protocols import StepStats
from agito.sampling.wire import EngineRequest, EngineResponse, ScoreRequest, ScoreResponse
from agito.types import Json, Sample
from agito.weights.address import WeightAddress

PolicyId: TypeAlias = str


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerGroup:
    """Processes that learn together: each holds all weights and takes a part of every batch."""

    rank: int
    size: int
    rendezvous: str  # given by the first of them: see `OfferRendezvous`


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """`serves_others`: samplers in other processes pull its weights, so it learns while they sample. Without
    a `group` it learns alone."""

    config: TrainerConfig
    group: LearnerGroup | None = None
    serves_others: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    context: int  # tokens of one sequence
    max_num_seqs: int  # sampled at once; further ones wait
    weights: WeightAddress | None = None  # None: the learner is in this process, or nobody learns


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A network: weights from a folder, or drawn from the seed if only a shape is given. `lora` adds a new
    adapter."""

    source: Path | DecoderConfig
    seed: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPolicy:
    """Creates the policy's network, the same in every process, and its roles in this one. Replaces an open
    policy of this id."""

    model: ModelSpec
    device: str
    sampler: SamplerSpec | None = None  # None: it is sampled elsewhere
    learner: LearnerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOpened:
    num_parameters: int
    # Address for samplers in other processes; None unless the learner serves others.
    weights: WeightAddress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRendezvous:
    """To the first of the processes that will learn together: asks for a rendezvous. `directory`: the pool's,
    on this machine."""

    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    address: str  # file:///PATH, or tcp://HOST:PORT across machines


# Requests to a sampler.


@dataclass(frozen=True, slots=True, kw_only=True)
class PullWeights:
    """Sample with this version from here on. Rows are kept, or all dropped."""

    version: int
    keep_rows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPulled:
    paused_s: float  # time without sampling


# Requests to a learner.


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginPhase:
    """A new optimizer and schedule. `is_alone`: without the rest of its group, until the next phase or
    `LoadState`."""

    phase: Phase
    total_steps: int
    is_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortenPhase:
    """The phase ends after as many steps as this, which are fewer than planned."""

    total_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SftStep:
    """A supervised step for each batch. `num_tokens`: trainable tokens of each whole batch, of which this
    process may hold a part."""

    batches: tuple[tuple[Sample, ...], ...]
    num_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeStep:
    """One step of reinforcement learning; `rate` scales the learning rates."""

    samples: tuple[Sample, ...]
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    stats: tuple[StepStats, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncWeights:
    """All processes of the group take over the weights of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushWeights:
    """Publishes the learner's weights as this version, for samplers to pull."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWeights:
    """The learner's weights become this version, as files for a server of another kind: see
    `agito.weights.files`.
    """

    directory: Path
    name: str
    version: int
    is_adapter: bool  # the adapter alone; else all weights, an adapter added to them
    text: array[int]  # 'i'; the server's log-probabilities of it must match the learner's


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsExported:
    path: Path
    logprobs: array[float]  # 'f'; of the text, but for its first token


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCheckpoint:
    """Commits weights, tokenizer, optimizer and `meta` by a rename."""

    directory: Path
    meta: Mapping[str, Json]
    tokenizer: Mapping[str, str]  # file name → text
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveState:
    """Writes what `LoadState` needs into an existing directory."""

    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    directory: Path
    weights_only: bool = False


# Common to all.


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Success without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The request failed."""

    error: BaseException
    trace: str


SamplerRequest: TypeAlias = EngineRequest | ScoreRequest | PullWeights
SamplerResponse: TypeAlias = EngineResponse | ScoreResponse | WeightsPulled
LearnerRequest: TypeAlias = (
    BeginPhase
    | ShortenPhase
    | SftStep
    | TakeStep
    | SyncWeights
    | PushWeights
    | ExportWeights
    | SaveCheckpoint
    | SaveState
    | LoadState
)
LearnerResponse: TypeAlias = Stepped | WeightsExported | Done
WorkerRequest: TypeAlias = OpenPolicy | OfferRendezvous | SamplerRequest | LearnerRequest
WorkerResponse: TypeAlias = PolicyOpened | Rendezvous | SamplerResponse | LearnerResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    id: int
    policy: PolicyId
    body: WorkerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    id: int  # of the request
    body: WorkerResponse | Failure
