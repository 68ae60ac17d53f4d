"""Segments to samples: which tokens are trained on, and with what advantage."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from agito.types import Sample, Segment, TokenSource, Trajectory

_IS_TRAINABLE = bytes(1 if kind in (TokenSource.SAMPLED, TokenSource.CONTROL) else 0 for kind in range(256))


def trainable_mask(segment: Segment) -> bytes:
    """1 for every token that this segment sampled; 0 for observed, forced and inherited tokens.

    Tokens shared with the parent segment are trained on in the parent, once.
    """
    inherited = segment.prefix_len if segment.parent is not None else 0
    return bytes(inherited) + segment.tokens.kinds[inherited:].translate(_IS_TRAINABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageChange:
    """A different advantage from the turn that made call `event` on."""

    event: int
    advantage: float


def samples_of(
    trajectory: Trajectory,
    advantage: float,
    *,
    later: AdvantageChange | None = None,
    temperatures: bool = True,
) -> tuple[Sample, ...]:
    """One sample for each segment with trainable tokens; these get `advantage`, or that of `later` from its
    turn on.

    Raises `ValueError` when `temperatures` is set and a segment mixes temperatures or was sampled with top-p
    below 1: its log-probabilities then belong to no single policy.
    """
    samples: list[Sample] = []
    for segment in trajectory.segments:
        trainable = trainable_mask(segment)
        if not any(trainable):
            continue
        sample = Sample(
            attempt=trajectory.attempt,
            segment=segment.id,
            ids=segment.tokens.ids,
            logprobs=segment.tokens.logprobs,
            trainable=trainable,
            advantages=_advantages(trajectory, segment, trainable, advantage, later),
            versions=segment.tokens.versions,
            temperature=_temperature(trajectory, segment) if temperatures else 1.0,
            policy=segment.policy,
            role=segment.role,
        )
        samples.append(sample)
    return tuple(samples)


def _advantages(
    trajectory: Trajectory,
    segment: Segment,
    trainable: bytes,
    advantage: float,
    later: AdvantageChange | None,
) -> array[float]:
    columns = array("f", [advantage if is_trainable else 0.0 for is_trainable in trainable])
    if later is not None:
        starts, begin = list[int](), 0
        for turn in trajectory.turns:
            begin = begin if turn.continues else turn.start
            if turn.segment == segment.id and any(at >= later.event for at in turn.calls):
                starts.append(begin)
        for position in range(min(starts, default=0 if later.event == 0 else len(columns)), len(columns)):
            columns[position] = later.advantage if trainable[position] else 0.0
    return columns


def _temperature(trajectory: Trajectory, segment: Segment) -> float:
    own = [turn for turn in trajectory.turns if turn.segment == segment.id]
    truncated = [turn.top_p for turn in own if turn.top_p != 1.0]
    if truncated:
        raise ValueError(
            f"attempt {trajectory.attempt}: top_p={truncated[0]}: sample with top_p=1 in training"
        )
    found = sorted({turn.temperature for turn in own})
    if len(found) > 1:
        raise ValueError(
            f"attempt {trajectory.attempt} segment {segment.id}: temperatures {found}: sample a segment at "
            "one temperature"
        )
    return found[0] if found else 1.0
