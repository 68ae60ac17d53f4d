"""Packs samples into ragged tensors and splits them into minibatches and micro-batches, deterministically.

Axes: B samples, N tokens of all samples end to end, T trainable tokens. The hidden state at t-1 predicts the
token at position t of the same sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from agito.types import Sample

Item = TypeVar("Item")

_LOGPROB_SLACK = 1e-3  # rounding may push a log-probability this far above 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One micro-batch."""

    ids_N: Tensor  # int64
    lengths_B: tuple[int, ...]  # sums to N
    source_T: Tensor  # int64: the position in N whose hidden state predicts the token
    target_T: Tensor  # int64: the token's id
    sequence_T: Tensor  # int64: its sample, in 0..B-1
    logp_mu_T: Tensor  # float32; NaN where nothing was sampled
    advantages_T: Tensor  # float32
    temperature_T: Tensor  # float32
    ages_T: Tensor  # `version` minus the version that sampled the token
    is_fresh_T: Tensor  # bool: `version` computed every position of the sample

    @property
    def num_tokens(self) -> int:
        return self.target_T.numel()

    @property
    def num_sequences(self) -> int:
        return len(self.lengths_B)


def pack(samples: Sequence[Sample], *, version: int = 0, device: torch.device | str = "cpu") -> Packed:
    """Tensors of `samples`, in order; ages are relative to `version`.

    Raises `ValueError` for an empty list, an empty sample, and a trainable token at position 0, which nothing
    predicts.
    """
    if not samples:
        raise ValueError("no samples to pack")
    lengths = [len(sample.ids) for sample in samples]
    offsets = np.cumsum([0, *lengths[:-1]])
    positions = [trainable_positions(sample) for sample in samples]
    counts = [len(position) for position in positions]

    def at_targets(column: str) -> Tensor:
        rows = [
            np.frombuffer(getattr(sample, column), dtype=np.float32)[where]
            for sample, where in zip(samples, positions, strict=True)
        ]
        return torch.from_numpy(np.concatenate(rows)).to(device)

    def of_samples(values: Sequence[float | int | bool], dtype: type) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, dtype=dtype), counts)).to(device)

    ids_N = np.concatenate([np.frombuffer(sample.ids, dtype=np.int32) for sample in samples]).astype(np.int64)
    at_T = np.concatenate([where + offset for where, offset in zip(positions, offsets, strict=True)])
    versions_T = np.concatenate(
        [_versions_at(sample, where) for sample, where in zip(samples, positions, strict=True)]
    )
    return Packed(
        ids_N=torch.from_numpy(ids_N).to(device),
        lengths_B=tuple(lengths),
        source_T=torch.from_numpy(at_T - 1).to(device),
        target_T=torch.from_numpy(ids_N[at_T]).to(device),
        sequence_T=of_samples(range(len(samples)), np.int64),
        logp_mu_T=at_targets("logprobs"),
        advantages_T=at_targets("advantages"),
        temperature_T=of_samples([sample.temperature for sample in samples], np.float32),
        ages_T=torch.from_numpy(version - versions_T).to(device),
        is_fresh_T=of_samples(
            [all(span.version == version for span in sample.versions) for sample in samples], np.bool_
        ),
    )


def require_sampled(samples: Sequence[Sample]) -> None:
    """Raises `ValueError` unless a policy sampled every trainable token and its advantage is finite."""
    for sample in samples:
        where = trainable_positions(sample)
        logp = np.frombuffer(sample.logprobs, dtype=np.float32)[where]
        advantages = np.frombuffer(sample.advantages, dtype=np.float32)[where]
        name = f"sample {sample.attempt} segment {sample.segment}"
        if not np.isfinite(logp).all() or (logp > _LOGPROB_SLACK).any():
            raise ValueError(
                f"{name}: a trainable token has no valid log-probability: imitate it, or sample it again"
            )
        if not np.isfinite(advantages).all():
            raise ValueError(f"{name}: an advantage is not finite: a void attempt must not become a sample")
        if not sample.temperature > 0:
            raise ValueError(
                f"{name}: temperature={sample.temperature}: a greedy choice has no policy gradient; sample "
                "above 0"
            )


def split_minibatches(samples: Sequence[Sample], num_minibatches: int) -> list[list[Sample]]:
    """Exactly `num_minibatches` parts of about equal token counts; some are empty when samples are few.

    Samples are cut in order of attempt, regardless of arrival: groups stay together, and no part gets all
    long samples.
    """
    if num_minibatches < 1:
        raise ValueError(f"num_minibatches={num_minibatches}: need at least 1")
    total = sum(len(sample.ids) for sample in samples)
    parts: list[list[Sample]] = [[] for _ in range(num_minibatches)]
    before = 0
    for sample in sorted(samples, key=lambda sample: (sample.attempt, sample.segment)):
        middle = before + len(sample.ids) / 2
        parts[min(num_minibatches - 1, math.floor(middle * num_minibatches / total))].append(sample)
        before += len(sample.ids)
    return parts


def split_by_length(items: Sequence[Item], lengths: Sequence[int], max_tokens: int) -> list[list[Item]]:
    """Parts of at most `max_tokens` tokens, with items of similar length together; a longer item gets its own
    part."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: need at least 1")
    parts: list[list[Item]] = []
    room = 0
    for index in sorted(range(len(items)), key=lengths.__getitem__):
        if not parts or lengths[index] > room:
            parts.append([])
            room = max_tokens
        parts[-1].append(items[index])
        room -= lengths[index]
    return parts


def trainable_positions(sample: Sample) -> np.ndarray:
    if not len(sample.ids):
        raise ValueError(f"sample {sample.attempt} segment {sample.segment}: no tokens")
    where = np.flatnonzero(np.frombuffer(sample.trainable, dtype=np.uint8))
    if len(where) and where[0] == 0:
        raise ValueError(
            f"sample {sample.attempt} segment {sample.segment}: position 0 is trainable, but nothing "
            "predicts it"
        )
    return where


def _versions_at(sample: Sample, where: np.ndarray) -> np.ndarray:
    versions = np.repeat(
        [span.version for span in sample.versions], [span.stop - span.start for span in sample.versions]
    )
    if len(versions) != len(sample.ids):
        raise ValueError(
            f"sample {sample.attempt} segment {sample.segment}: version spans cover {len(versions)} of "
            f"{len(sample.ids)} tokens"
        )
    return versions[where].astype(np.int64)
