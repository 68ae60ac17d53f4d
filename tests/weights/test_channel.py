"""Weights come out of a channel as they went in, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agito.weights.channel import InProcess, WeightBuffer, WeightChannel
from agito.weights.network import FetchedWeights, ServedWeights

LIKE = (("a", torch.zeros(3, 5)), ("b", torch.zeros(7)), ("c", torch.zeros(2, dtype=torch.bfloat16)))


def in_process() -> tuple[WeightChannel, WeightChannel]:
    channel = InProcess()
    return channel, channel


def shared_memory() -> tuple[WeightChannel, WeightChannel]:
    ours, where = WeightBuffer.create(LIKE)
    return ours, WeightBuffer.open(where, LIKE)


def over_network() -> tuple[WeightChannel, WeightChannel]:
    ours = ServedWeights(LIKE, host="127.0.0.1")
    return ours, FetchedWeights(ours.address, LIKE)


Ends = Callable[[], tuple[WeightChannel, WeightChannel]]
each_channel = pytest.mark.parametrize("ends", [in_process, shared_memory, over_network])


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
    learner.push(5, weights(5))
    with pytest.raises(RuntimeError, match="version 1 are not in the channel: it has 5"):
        sampler.pull(1)


@each_channel
def test_a_version_is_never_used_again(ends: Ends) -> None:
    learner, sampler = ends()
    learner.push(4, weights(4))
    for version in (4, 3):
        with pytest.raises(ValueError, match=f"version {version} come after 4"):
            learner.push(version, weights(5))
    assert torch.equal(sampler.pull(4)["a"], weights(4)[0][1]), "what was refused has changed what was there"


between_processes = pytest.mark.parametrize("ends", [shared_memory, over_network])


@between_processes
def test_the_version_before_can_still_be_pulled_while_the_next_is_there(ends: Ends) -> None:
    learner, sampler = ends()
    learner.push(4, weights(4))
    learner.push(5, weights(5))
    assert torch.equal(sampler.pull(4)["a"], weights(4)[0][1])
    assert torch.equal(sampler.pull(5)["a"], weights(5)[0][1])


@between_processes
def test_weights_that_were_not_written_to_the_end_are_refused(ends: Ends) -> None:
    learner, sampler = ends()
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


def test_whoever_does_not_know_the_secret_or_has_another_model_is_not_served() -> None:
    learner = ServedWeights(LIKE, host="127.0.0.1")
    learner.push(1, weights(1))
    renamed = [("z", LIKE[0][1]), *LIKE[1:]]
    for stranger in (
        FetchedWeights(replace(learner.address, secret=bytes(32)), LIKE),
        FetchedWeights(learner.address, renamed),
    ):
        with pytest.raises(
            RuntimeError, match=r"weights of version 1 cannot be had from 127\.0\.0\.1:\d+: EOFError"
        ):
            stranger.pull(1)
    with pytest.raises(RuntimeError, match="bytes of weights, but this policy has"):
        FetchedWeights(learner.address, LIKE[:1])
    assert torch.equal(FetchedWeights(learner.address, LIKE).pull(1)["a"], weights(1)[0][1])
    assert "secret" not in repr(learner.address)


def test_a_learner_that_is_gone_is_an_error_and_not_a_wait() -> None:
    learner = ServedWeights(LIKE, host="127.0.0.1")
    learner.push(1, weights(1))
    learner.close()
    learner.close()
    with pytest.raises(RuntimeError, match="cannot be had"):
        FetchedWeights(learner.address, LIKE).pull(1)


def test_a_version_that_is_being_fetched_stays_as_it_is_while_later_ones_are_pushed() -> None:
    like = [("big", torch.zeros(1 << 22))]
    learner = ServedWeights(like, host="127.0.0.1")
    learner.push(1, [("big", torch.ones(1 << 22))])
    found: list[torch.Tensor] = []
    thread = threading.Thread(
        target=lambda: found.append(FetchedWeights(learner.address, like).pull(1)["big"].clone())
    )
    thread.start()
    for version in range(2, 8):
        learner.push(version, [("big", torch.full((1 << 22,), float(version)))])
    thread.join()
    assert not found or torch.equal(found[0], torch.ones(1 << 22))
