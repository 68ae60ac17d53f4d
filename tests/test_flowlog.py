"""A scheduler that receives another one's events makes the same decisions, and a difference is detected."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.errors import Diverged, NotFound
from agito.scheduling.async_scheduler import SchedulerRules
from agito.scheduling.log import LoggedScheduler, replay


def log(rules: SchedulerRules, seed: int) -> list[str]:
    """A run in which everything ends in random order."""
    lines, rng = list[str](), random.Random(seed)
    flow = LoggedScheduler(rules, write=lines.append)
    live, issued, training = list(flow.release()), 0, False
    while not (flow.is_done and flow.is_published):
        if wanted := flow.num_wanted():
            flow.issue(range(issued, issued + wanted))
            issued += wanted
        live += flow.release()
        training = flow.batch() is not None or training
        if training and (not live or rng.random() < 0.3):
            flow.trained()
            flow.published(flow.next_batch)
            training = False
        elif live:
            flow.finished(live.pop(rng.randrange(len(live))), rng.choice([None, 0.0, 1.0]))
    return lines


RULES = st.builds(
    lambda groups, staleness, live: SchedulerRules(
        groups=groups, group_size=2, batches=5, max_staleness=staleness, max_live=live
    ),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 20),
)


@given(rules=RULES, seed=st.integers(0, 999))
def test_a_schedule_fed_the_same_events_decides_the_same(rules: SchedulerRules, seed: int) -> None:
    lines = log(rules, seed)
    counts = replay(lines)
    assert counts["batch"] == counts["trained"] == rules.batches
    assert sum(counts.values()) == len(lines)


@given(rules=RULES, seed=st.integers(0, 99))
def test_a_decision_that_was_altered_is_found_out_at_its_number(rules: SchedulerRules, seed: int) -> None:
    lines = log(rules, seed)
    decisions = [at for at, line in enumerate(lines) if json.loads(line)[1] in ("release", "batch")]
    at = random.Random(seed).choice(decisions)
    number, name, value = json.loads(lines[at])
    altered = [*value, "9.9"] if name == "release" else value | {"groups": [*value["groups"], 99]}
    with pytest.raises(Diverged, match=f"event {number}: the log says {name}"):
        replay([*lines[:at], json.dumps([number, name, altered]), *lines[at + 1 :]])


def test_a_log_that_does_not_begin_is_refused() -> None:
    with pytest.raises(NotFound, match="begin with a flow"):
        replay([json.dumps([0, "trained", None])])
