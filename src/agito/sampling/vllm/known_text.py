"""A text with known log-probabilities, to verify after each publication that a server samples with the right
weights."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agito.errors import WorkerFailed


class WrongWeights(WorkerFailed):
    """A sampler whose log-probabilities differ from its learner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of the difference between sampler and learner, in nats: of its mean, and of any one token."""

    mean: float
    token: float


# By the server's precision, with the learner in float32. Largest measured: 3e-5 in float32; .04 on average
# and .84 for one token in bfloat16.
BOUNDS: Mapping[str, Bounds] = {
    "float32": Bounds(mean=1e-4, token=2e-3),
    "bfloat16": Bounds(mean=0.1, token=2.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLogprobs:
    """The learner's log-probabilities of `ids` at temperature 1, all but the first."""

    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f'

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.logprobs) + 1 or not self.logprobs:
            raise ValueError(
                f"{len(self.ids)} ids and {len(self.logprobs)} log-probabilities: need one for each id but "
                "the first"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of absolute values, in nats."""

    mean: float
    token: float


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    each = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return Difference(mean=sum(each) / len(each), token=max(each))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A requested version: the learner's values and the server's."""

    known: KnownLogprobs
    found: array[float]

    @property
    def off(self) -> Difference:
        return difference(self.found, self.known.logprobs)


def require_known(checked: Checked, before: Checked | None, bounds: Bounds, *, name: str) -> None:
    """Raises `WrongWeights` when the server differs from its learner by more than its precision explains, or
    when the learner has moved since version `before` and the server has not."""
    off = checked.off
    if not (off.mean <= bounds.mean and off.token <= bounds.token):
        raise WrongWeights(
            f"{name}: server and learner differ by {off.mean:.3g} nats a token and {off.token:.3g} at one "
            f"(at most {bounds.mean:g} and "
            f"{bounds.token:g}) over a text of {len(checked.known.ids)} tokens"
        )
    if before is None or before.known.ids != checked.known.ids:
        return
    moved = difference(checked.known.logprobs, before.known.logprobs).mean
    if moved > bounds.mean / 10 and difference(checked.found, before.found).mean < moved / 10:
        raise WrongWeights(
            f"{name}: the learner has moved by {moved:.3g} nats a token, and the server answers as it did "
            "before"
        )
