"""The event log: whole lines only, in order, for everybody who looks on the same."""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import pytest

from agito.errors import DiskFull, EnvironmentPaused
from agito.evaluation import saved_policy, scorecard
from agito.record import RunDir
from agito.record.events import (
    CheckpointSaved,
    EvaluationFinished,
    Event,
    EventLog,
    EventTail,
    Level,
    Notice,
    PhaseStarted,
    Progress,
    Recovered,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    StepFinished,
    SummaryWritten,
    decode,
    ignore,
    logged,
    read_events,
)
from agito.view import write_report

NASTY = 'Ünïcode \u2028 "\\ \n\x00'
EVERY: tuple[Event, ...] = (
    RunStarted(name=NASTY, env="shell", seed=3, notes=("a", NASTY)),
    RunResumed(checkpoint="step-4", step=4),
    PhaseStarted(phase="rl", total=10),
    Progress(phase="rl", done=3, metrics={"success/num": 3.0}),
    StepFinished(phase="rl", step=1, metrics={"train/loss": -0.25}),
    CheckpointSaved(name="step-2", step=2),
    EvaluationFinished(phase="after", agent="policy", successes=1, num=2, num_all=3),
    Recovered(why="worker 1 ended", step=0),
    Notice(level=Level.ALARM, text=NASTY),
    SummaryWritten(paused=""),
    RunStopped(why="interrupted"),
    RunFailed(error="DiskFull", why=NASTY),
    RunFinished(),
)
BEGINS = RunStarted(name="a", env="shell", seed=0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_type_of_event_is_read_as_it_was_written_and_told(tmp_path: Path) -> None:
    assert {type(event) for event in EVERY} == set(get_args(Event)), "an event is missing here"
    told, path = list[Event](), tmp_path / "events.jsonl"
    with EventLog(told.append, path, clock=Clock()) as log:
        for event in EVERY:
            log.emit(event)
    assert told == read_events(path) == [replace(e, seq=i, at=1000.0) for i, e in enumerate(EVERY)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{field.name for field in fields(e)} for e in EVERY]
    assert len({line["type"] for line in lines}) == len(EVERY)


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_for_every_reader(tmp_path: Path) -> None:
    told, path = list[Event](), tmp_path / "events.jsonl"
    with EventLog(told.append, path) as log:
        log.emit(StepFinished(phase="rl", step=0, metrics={"a/b": math.inf, "a/c": math.nan}))
    assert json.loads(path.read_bytes())["metrics"] == {"a/b": None, "a/c": None}
    for event in (*told, *read_events(path)):
        assert isinstance(event, StepFinished) and all(map(math.isnan, event.metrics.values()))


def test_a_number_of_another_library_is_a_number() -> None:
    told = list[Event]()
    metrics: Any = {"a/b": Fraction(1, 4)}
    EventLog(told.append).emit(StepFinished(phase="rl", step=0, metrics=metrics))
    assert isinstance(told[0], StepFinished) and told[0].metrics == {"a/b": 0.25}


def test_a_text_that_is_no_utf8_is_written_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"no-utf8-\xff")
    with EventLog(path=tmp_path / "events.jsonl") as log:
        log.emit(Notice(level=Level.NOTE, text=name))
    (event,) = read_events(tmp_path / "events.jsonl")
    assert isinstance(event, Notice) and event.text == "no-utf8-?"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"\xff\xfe",
        b'{"type": "run_finished"',
        b'{"version": 2, "seq": 0, "at": 1.0, "type": "run_finished"}',
        b'{"version": 1, "seq": 0, "at": 1.0, "type": "run_vanished"}',
        b'{"version": 1, "seq": 0, "at": 1.0, "type": "notice", "level": "whisper", "text": "a"}',
        b'{"version": 1, "seq": "x", "at": 1.0, "type": "run_finished"}',
    ],
)
def test_a_line_that_is_damaged_or_of_another_version_is_no_event_and_hides_no_other(
    tmp_path: Path, line: bytes
) -> None:
    assert decode(line) is None
    path = tmp_path / "events.jsonl"
    with EventLog(path=path) as log:
        log.emit(BEGINS)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with EventLog(path=path) as log:
        log.emit(RunFinished())
    first, last = read_events(path)
    assert isinstance(first, RunStarted) and isinstance(last, RunFinished) and first.seq < last.seq


def test_a_field_that_a_later_version_adds_is_no_obstacle() -> None:
    event = decode(b'{"version": 1, "seq": 5, "at": 2.5, "type": "run_finished", "mood": "good"}')
    assert event == RunFinished(seq=5, at=2.5)


def test_a_torn_last_line_is_not_read_and_the_next_run_appends_at_a_line_boundary(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path=path) as log:
        log.emit(BEGINS)
        log.emit(Recovered(why="worker 1 ended", step=2))
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second, len(whole)):
        path.write_bytes(whole[:cut])
        assert [event.seq for event in read_events(path)] == [0]
        with EventLog(path=path) as log:
            log.emit(RunResumed(checkpoint="", step=0))
        assert [(type(e), e.seq) for e in read_events(path)] == [(RunStarted, 0), (RunResumed, 1)]


def test_a_tail_gives_each_event_once_however_the_lines_are_cut_by_the_reading(tmp_path: Path) -> None:
    path, written = tmp_path / "events.jsonl", tmp_path / "written"
    tail, found = EventTail(path), list[Event]()
    assert tail.read() == []  # nobody has begun
    with EventLog(path=written) as log:
        for step in range(20):
            log.emit(StepFinished(phase="rl", step=step, metrics={"a/b": step / 7}))
    data, rng, at = written.read_bytes(), random.Random(7), 0
    with path.open("ab", buffering=0) as file:
        while at < len(data):
            size = rng.randint(1, 90)
            file.write(data[at : at + size])
            at += size
            found += tail.read()
    assert found == read_events(written) and len(found) == 20 and tail.read() == []


def test_a_tail_begins_anew_when_another_run_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path=path) as log:
        log.emit(BEGINS)
    tail = EventTail(path)
    assert len(tail.read()) == 1
    path.rename(tmp_path / "aside")
    with EventLog(path=path) as log:
        log.emit(RunStarted(name="b", env="shell", seed=1))
        log.emit(RunFinished())
    assert [event.seq for event in tail.read()] == [0, 1]


# Says when the log is open; long lines, so that a kill finds the writer writing.
WRITER = """
import sys
from fractions import Fraction
from pathlib import Path
from agito.record.events import EventLog, StepFinished
with EventLog(path=Path(sys.argv[1])) as log:
    print("open", flush=True)
    for step in range(10**9):
        log.emit(StepFinished(phase="rl", step=step, metrics={f"a/m{i}": step / 3 for i in range(500)}))
"""


def test_a_writer_that_is_killed_while_somebody_reads_leaves_whole_events_in_order(tmp_path: Path) -> None:
    """Two processes, one after the other, each killed in the middle of its work; the reader never stops."""
    path, found = tmp_path / "events.jsonl", list[Event]()
    tail, rng = EventTail(path), random.Random(3)
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
            wanted = len(found) + rng.randint(20, 60)
            while len(found) < wanted:
                assert writer.poll() is None
                found += tail.read()
            writer.send_signal(signal.SIGKILL)
        found += tail.read()
        with path.open("ab") as file:  # as a kill in the middle of a write leaves it
            file.write(b'{"version": 1, "seq": 99')
    assert [event.seq for event in found] == list(range(len(found)))
    assert all(isinstance(event, StepFinished) and len(event.metrics) == 500 for event in found)
    assert [event.at for event in found] == sorted(event.at for event in found)


def test_a_full_disk_leaves_no_torn_line_and_the_log_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """A limit on the size of files in place of the disk: the kernel writes a part of the line, then fails."""
    code = f"""
import resource, signal
from fractions import Fraction
from pathlib import Path
from agito.errors import DiskFull
from agito.record.events import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path / "events.jsonl")!r})
with EventLog(path=path) as log:
    log.emit(RunFinished())
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, {resource.RLIM_INFINITY}))
    try:
        log.emit(Recovered(why="w" * 200, step=1))
    except DiskFull:
        assert path.stat().st_size == size
    else:
        raise SystemExit("no DiskFull")
    resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY}, {resource.RLIM_INFINITY}))
    log.emit(Recovered(why="later", step=1))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert [(type(e), e.seq) for e in read_events(tmp_path / "events.jsonl")] == [
        (RunFinished, 0),
        (Recovered, 1),
    ]


def test_a_resumed_run_counts_on_and_its_clock_never_goes_back(tmp_path: Path) -> None:
    path, clock = tmp_path / "events.jsonl", Clock()
    with EventLog(path=path, clock=clock) as log:
        log.emit(BEGINS)
    clock.now = 400.0  # somebody set it back
    with EventLog(path=path, clock=clock) as log:
        log.emit(RunResumed(checkpoint="step-1", step=1))
    assert [(event.seq, event.at) for event in read_events(path)] == [(0, 1000.0), (1, 1000.0)]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (None, RunFinished()),
        (EnvironmentPaused("the validator disagrees"), RunStopped(why="the validator disagrees")),
        (KeyboardInterrupt(), RunStopped(why="interrupted")),
        (ValueError("no"), RunFailed(error="ValueError", why="no")),
        (DiskFull("no space"), RunFailed(error="DiskFull", why="no space")),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_last_event_says_how_the_process_ended_and_the_error_goes_on(
    tmp_path: Path, error: BaseException | None, ends: Event
) -> None:
    path = tmp_path / "events.jsonl"
    try:
        with logged(path, ignore, BEGINS):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    first, last = read_events(path)
    assert isinstance(first, RunStarted) and last == replace(ends, seq=1, at=last.at)


def test_progress_is_bounded_in_number_and_no_attempt_is_lost(tmp_path: Path) -> None:
    """However many attempts: 200 events and two a second; the last says all of them."""
    told, clock = list[Event](), Clock()
    log = EventLog(told.append, clock=clock)
    for total in (10_000, 0):
        log.begin("before", total)
        for _ in range(10_000):
            clock.now += 0.001
            log.advance({"success/num": 1.0, "tokens/sampled_num": 3.0})
    log.emit(RunFinished())
    progress = [event for event in told if isinstance(event, Progress)]
    cut = next(i for i, event in enumerate(progress) if i and event.done < progress[i - 1].done)
    known, unknown = progress[:cut], progress[cut:]
    assert 200 <= len(known) <= 200 + 21 and len(unknown) <= 21
    for events in (known, unknown):
        assert events[-1].done == 10_000
        assert events[-1].metrics == {"success/num": 10_000.0, "tokens/sampled_num": 30_000.0}
        assert [event.done for event in events] == sorted({event.done for event in events})


def test_of_a_small_phase_every_attempt_is_told_at_once() -> None:
    told, clock = list[Event](), Clock()
    log = EventLog(told.append, clock=clock)
    log.begin("before", 200)
    for done in range(1, 201):
        log.advance()
        assert isinstance(told[-1], Progress) and told[-1].done == done


def test_what_is_counted_is_told_before_any_other_event() -> None:
    told, clock = list[Event](), Clock()
    log = EventLog(told.append, clock=clock)
    log.begin("before", 0)
    log.advance()
    log.advance()
    log.emit(Notice(level=Level.NOTE, text="a"))
    assert [type(event) for event in told] == [PhaseStarted, Progress, Progress, Notice]
    assert isinstance(told[2], Progress) and told[2].done == 2


def test_nobody_has_a_private_channel() -> None:
    """Whatever tells of its work takes an `on_event`, and the log is the only thing that calls it."""
    from agito.audit import audit
    from agito.training import run

    for function in (
        run.train,
        run.resume,
        saved_policy.evaluate_checkpoint,
        scorecard.of_checkpoints,
        scorecard.of_endpoint,
        audit,
    ):
        assert "OnEvent" in str(function.__annotations__["on_event"]), function
    root = Path(run.__file__).parents[1]
    text = {path: path.read_text() for path in root.rglob("*.py")}
    assert not [path for path, source in text.items() if "Watcher" in source]
    called = [path.name for path, source in text.items() if "on_event(" in source]
    assert called == ["events.py"]


def test_who_writes_a_run_is_known_while_it_does_and_no_longer(tmp_path: Path) -> None:
    assert not RunDir.is_written(tmp_path / "one")
    with RunDir.create(tmp_path / "one", "", {}):
        assert RunDir.is_written(tmp_path / "one")
    assert not RunDir.is_written(tmp_path / "one")
    aside = RunDir.move_aside(tmp_path / "one")
    assert not RunDir.is_written(aside)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (aside / ".lock").write_text(f"{gone.pid}\n")
    assert not RunDir.is_written(aside)


def test_the_report_says_what_interrupted_a_run_from_its_events(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "one", "", {}) as run, EventLog(path=run.events) as log:
        for event in EVERY:
            log.emit(event)
    with run.events.open("ab") as file:
        file.write(b'{"type": "notice", "le')
    page = write_report(run.path).read_text()
    data: Any = json.loads(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)[0])
    told = [each["text"].partition(":")[0] for each in data["happened"]]
    assert told == [
        "resumed from step-4",
        "worker 1 ended; went on from RL step 0",
        "alarm",
        "stopped",
        "failed",
    ]
