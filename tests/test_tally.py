"""Resource usage of a run over all its sessions."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from array import array
from dataclasses import replace

import pytest

from agito.errors import CorruptCheckpoint
from agito.record.usage import UsageCounters
from agito.testing import FakeEnvironment
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Event,
    Fault,
    FinishReason,
    Json,
    Segment,
    Status,
    TerminationReason,
    Tokens,
    Trajectory,
    Turn,
    Verdict,
    span,
)

TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)


def attempt(*, version: int = 1, cpu_ms: tuple[float, ...] = (), void: bool = False) -> Attempt:
    tokens = Tokens(
        ids=array("i", [1, 2, 3]),
        logprobs=array("f", [math.nan, -1, -1]),
        kinds=b"\0\1\3",
        channels=b"\0\2\2",
        versions=span(version, 3),
    )
    call = Call(tool="open", arguments={})
    ran = [
        Event(index=at, call=call, text="", wall_s=0.01, cpu_s=each / 1e3) for at, each in enumerate(cpu_ms)
    ]
    never_ran = Event(index=len(ran), call=call, text="timeout", fault=Fault.TIMEOUT)
    trajectory = Trajectory(
        attempt=AttemptId(group=0, slot=0),
        task=TASK,
        segments=(Segment(id=0, tokens=tokens),),
        turns=(Turn(segment=0, start=1, stop=3, stopped=FinishReason.END),),
        events=(*ran, never_ran),
        end=TerminationReason.SUBMITTED,
    )
    return Attempt(
        trajectory=trajectory,
        verdict=Verdict.void("infra: gone") if void else Verdict(status=Status.SCORED, reward=1.0),
    )


def test_tokens_of_scripts_are_not_counted_as_sampled() -> None:
    tally = UsageCounters()
    tally.add([attempt(version=0), attempt(version=1), attempt(version=9)])
    assert tally.sampled_tokens == 4


def test_calls_that_never_reached_a_tool_are_not_counted() -> None:
    tally = UsageCounters()
    tally.add([attempt(cpu_ms=(1.0, 2.0, 9.0)), attempt()])
    assert tally.tool_calls == 3
    assert tally.tool_cpu_ms_p50 == pytest.approx(2.0, abs=0.05)
    assert UsageCounters().tool_cpu_ms_p50 == 0.0


def test_calls_of_a_world_in_this_process_are_counted_and_submissions_are_not() -> None:
    whole = attempt()
    call = Call(tool="look", arguments={})
    events = (Event(index=0, call=call, text="a table"), Event(index=1, call=call, text="", ended=True))
    tally = UsageCounters()
    tally.add([replace(whole, trajectory=replace(whole.trajectory, events=events))])
    assert tally.tool_calls == 1


def test_void_attempts_are_counted_in_the_open() -> None:
    tally = UsageCounters()
    tally.add([attempt(void=True), attempt(), attempt(void=True)])
    assert tally.void_attempts == 2


def test_a_resumed_run_counts_on() -> None:
    tally = UsageCounters()
    tally.add([attempt(cpu_ms=(1.0, 2.0), void=True)])
    with tally.phase("rl"):
        pass
    again = UsageCounters.from_json(json.loads(json.dumps(tally.to_json())))
    again.add([attempt(cpu_ms=(3.0,))])
    with again.phase("rl"):
        pass
    assert (again.sampled_tokens, again.tool_calls, again.void_attempts) == (4, 3, 1)
    assert again.tool_cpu_ms_p50 == pytest.approx(2.0, abs=0.05)
    assert again.phase_wall_s["rl"] >= tally.phase_wall_s["rl"]
    assert again.cpu_s() >= again.earlier_cpu_s > 0


def test_a_phase_that_breaks_off_is_still_counted() -> None:
    tally = UsageCounters()
    with pytest.raises(RuntimeError), tally.phase("rl"):
        raise RuntimeError
    assert "rl" in tally.phase_wall_s


def test_a_checkpoint_in_the_middle_of_a_phase_carries_the_time_that_the_phase_has_taken() -> None:
    tally = UsageCounters()
    with tally.phase("rl"):
        time.sleep(0.02)
        again = UsageCounters.from_json(json.loads(json.dumps(tally.to_json())))
    with again.phase("rl"):
        pass
    assert again.phase_wall_s["rl"] >= 0.02


def test_a_phase_counts_the_cpu_time_of_child_processes_and_not_that_of_other_phases() -> None:
    tally = UsageCounters()
    burn = "import time\nwhile time.process_time() < 0.25: pass"
    with tally.phase("sft"):
        subprocess.run([sys.executable, "-c", burn], check=True, timeout=60)
    with tally.phase("rl"):
        pass
    again = UsageCounters.from_json(json.loads(json.dumps(tally.to_json())))
    assert again.phase_cpu_s["sft"] >= 0.2 > again.phase_cpu_s["rl"]


@pytest.mark.parametrize(
    ("damaged", "where"),
    [({"tool_calls": "many"}, "tool_calls"), ({"tool_cpu": 3}, "tool_cpu"), ({"x": 1}, "x")],
)
def test_damaged_counters_are_a_corrupt_checkpoint_that_names_the_field(
    damaged: dict[str, Json], where: str
) -> None:
    with pytest.raises(CorruptCheckpoint, match=f"usage: {where}"):
        UsageCounters.from_json({**UsageCounters().to_json(), **damaged})


_BURN = """
import os, sys, time
if os.fork() == 0:  # a worker has workers of its own
    while time.process_time() < 0.3: pass
    print("burnt", flush=True)
    sys.stdin.read()
else:
    os.wait()
"""


def test_the_cpu_time_of_workers_that_are_still_alive_is_in_a_checkpoint_and_is_counted_once() -> None:
    counters = UsageCounters()
    before = counters.cpu_s()
    with subprocess.Popen(
        [sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "burnt\n"
        alive = counters.cpu_s()
        saved = UsageCounters.from_json(counters.to_json())
    ended = counters.cpu_s()
    assert alive - before >= 0.28  # clock ticks are 10 ms
    assert saved.earlier_cpu_s >= alive
    assert ended - alive < 0.28
