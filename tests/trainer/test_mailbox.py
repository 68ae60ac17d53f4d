"""Weights come out of the mailbox as they went in, or not at all."""

from __future__ import annotations

import pytest
import torch

from agito.trainer.mailbox import Mailbox

LIKE = (("a", torch.zeros(3, 5)), ("b", torch.zeros(7)), ("c", torch.zeros(2, dtype=torch.bfloat16)))


def boxes() -> tuple[Mailbox, Mailbox]:
    """Two sides of one memory."""
    memory: list[torch.Tensor] = []

    def share(size: int) -> torch.Tensor:
        if not memory:
            memory.append(torch.zeros(size, dtype=torch.uint8))
        return memory[0]

    return Mailbox(share, LIKE), Mailbox(share, LIKE)


def weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(name, torch.randn(like.shape, generator=generator).to(like.dtype)) for name, like in LIKE]


def test_what_is_written_on_one_side_is_read_on_the_other_bit_for_bit() -> None:
    ours, theirs = boxes()
    for version in (0, 1, 2):
        ours.write(version, weights(version))
        read = theirs.read(version)
        assert all(torch.equal(read[name], tensor) for name, tensor in weights(version))


def test_the_version_before_can_still_be_read_while_the_next_is_there() -> None:
    ours, theirs = boxes()
    ours.write(4, weights(4))
    ours.write(5, weights(5))
    assert torch.equal(theirs.read(4)["a"], weights(4)[0][1])
    assert torch.equal(theirs.read(5)["a"], weights(5)[0][1])


def test_a_version_that_is_not_there_is_refused() -> None:
    ours, theirs = boxes()
    with pytest.raises(RuntimeError, match="version 0 are not in the mailbox"):
        theirs.read(0)
    ours.write(1, weights(1))
    ours.write(3, weights(3))
    with pytest.raises(RuntimeError, match="version 1 are not in the mailbox: it has 3"):
        theirs.read(1)


def test_weights_that_were_not_written_to_the_end_are_refused() -> None:
    ours, theirs = boxes()
    with pytest.raises(KeyError):
        ours.write(1, [*weights(1), ("strange", torch.zeros(1))])
    with pytest.raises(RuntimeError, match="version 1"):
        theirs.read(1)
