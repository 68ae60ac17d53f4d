"""A credit estimator of your own: leave-one-out advantages that grow towards the end of an attempt.

python examples/own_credit.py
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import agito
from agito.learning.credit import leave_one_out
from agito.record import Summary
from agito.types import Group, Sample

DISCOUNT = 0.99  # per token, counted back from the end of a segment


class Discounted:
    """A_t = DISCOUNT^(T - 1 - t) · (r_i - mean of the others): late tokens get more of the credit."""

    def __call__(self, group: Group, *, running_mean: float) -> Sequence[Sample]:
        return tuple(discounted(sample) for sample in leave_one_out(group, running_mean=running_mean))


def discounted(sample: Sample) -> Sample:
    last = len(sample.ids) - 1
    weights = [DISCOUNT ** (last - position) for position in range(len(sample.ids))]
    pairs = zip(sample.advantages, weights, strict=True)
    return replace(sample, advantages=array("f", [advantage * weight for advantage, weight in pairs]))


def main(out: Path = Path("runs/own_credit"), overrides: Sequence[str] = ()) -> Summary:
    """The recipe `smoke` (about a minute) with this estimator."""
    credit = f"{Path(__file__).absolute()}:Discounted"
    return agito.train("smoke", overrides=[f"rl.credit={credit}", *overrides], out=out)


if __name__ == "__main__":
    summary = main()
    print(f"success on held-out tasks: {summary.before.success:.2f} → {summary.after.success:.2f}")
