"""Weights come out of a channel as they went in, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agito.weights.channel import InProcess, WeightBuffer, WeightChannel

LIKE = (("a", torch.zeros(3, 5)), ("b", torch.zeros(7)), ("c", torch.zeros(2, dtype=torch.bfloat16)))


def in_process() -> tuple[WeightChannel, WeightChannel]:
    channel = InProcess()
    return channel, channel


def shared_memory() -> tuple[WeightChannel, WeightChannel]:
    ours, where = WeightBuffer.create(LIKE)
    return ours, WeightBuffer.open(where, LIKE)


Ends = Callable[[], tuple[WeightChannel, WeightChannel]]
each_channel = pytest.mark.parametrize("ends", [in_process, shared_memory])


def weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(name, torch.randn(like.shape, generator=generator).to(like.dtype)) for name, like in LIKE]


@each_channel
def test_what_is_pushed_at_one_end_is_pulled_at_the_other_bit_for_bit(ends: Ends) -> None:
    learner, sampler = ends()
    for version in (0, 1, 2, 7):
        learner.push(version, weights(version))
        pulled = sampler.pull(version)
        assert all(torch.equal(pulled[name], tensor) for name, tensor in weights(version))


@each_channel
def test_a_version_that_is_not_there_is_refused(ends: Ends) -> None:
    learner, sampler = ends()
    for version in (-1, 0):
        with pytest.raises(RuntimeError, match=f"version {version} are not in the channel: it has none"):
            sampler.pull(version)
    learner.push(1, weights(1))
    learner.push(3, weights(3))
    with pytest.raises(RuntimeError, match="version 1 are not in the channel: it has 3"):
        sampler.pull(1)


@each_channel
def test_a_version_is_never_used_again(ends: Ends) -> None:
    learner, sampler = ends()
    learner.push(4, weights(4))
    for version in (4, 3):
        with pytest.raises(ValueError, match=f"version {version} come after 4"):
            learner.push(version, weights(5))
    assert torch.equal(sampler.pull(4)["a"], weights(4)[0][1]), "what was refused has changed what was there"


def test_the_version_before_can_still_be_pulled_from_shared_memory_while_the_next_is_there() -> None:
    learner, sampler = shared_memory()
    learner.push(4, weights(4))
    learner.push(5, weights(5))
    assert torch.equal(sampler.pull(4)["a"], weights(4)[0][1])
    assert torch.equal(sampler.pull(5)["a"], weights(5)[0][1])


def test_weights_that_were_not_written_to_the_end_are_refused() -> None:
    learner, sampler = shared_memory()
    with pytest.raises(KeyError):
        learner.push(1, [*weights(1), ("strange", torch.zeros(1))])
    with pytest.raises(RuntimeError, match="version 1"):
        sampler.pull(1)


def test_weights_that_have_changed_since_they_were_pushed_are_refused_where_nothing_was_copied() -> None:
    channel = InProcess()
    channel.push(1, weights(1))
    channel.withdraw()
    with pytest.raises(RuntimeError, match="version 1"):
        channel.pull(1)
    with pytest.raises(ValueError, match="never used again"):
        channel.push(1, weights(1))


def test_a_sampler_of_another_shape_does_not_find_its_weights() -> None:
    _, where = WeightBuffer.create(LIKE)
    with pytest.raises(RuntimeError, match="bytes of weights, but this policy has"):
        WeightBuffer.open(where, LIKE[:1])
    with pytest.raises(OSError):
        WeightBuffer.open(replace(where, path=f"{where.path}0"), LIKE)
