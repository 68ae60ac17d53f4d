"""Trackers get a run's numbers from its event log, each once, and can neither stop nor slow it."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.cli.conftest import COIN, PLACES, agito_in, sets

from agito import config
from agito.errors import BadRecipe, NotFound
from agito.protocols import Point, TrackedRun
from agito.recipe import Recipe, read
from agito.record import read_metrics, tracking
from agito.record.events import (
    CheckpointSaved,
    EvaluationFinished,
    Event,
    EventLog,
    EventTail,
    Notice,
    Recovered,
    RunResumed,
    RunStarted,
    StepFinished,
    SummaryWritten,
    read_events,
)
from agito.record.tracking.follow import Reader

OWN = """
import os, time
class Lines:
    def open(self, run):
        self.file = (run.folder / "lines").open("a")
        self.say("open", run.name, run.online, sorted(run.recipe)[0])
    def say(self, *words):
        print(*words, file=self.file, flush=True)
    def log(self, points):
        for each in points:
            self.say(each.phase, each.step, sorted(each.values.items()))
    def rewind(self, phase, step):
        self.say("rewind", phase, step)
    def close(self):
        self.say("close")
class Raises(Lines):
    def log(self, points):
        raise RuntimeError("no room left")
class Dies(Lines):
    def open(self, run):
        os._exit(7)
class Hangs(Lines):
    def log(self, points):
        super().log(points)
        time.sleep(60)
class Lacks:
    def open(self, run):
        pass
"""


def has(library: str) -> bool:
    spec = find_spec(library)
    return spec is not None and spec.origin is not None


needs_tensorboard = pytest.mark.skipif(
    not (has("tensorboardX") and has("tensorboard")),
    reason="needs tensorboardX, and tensorboard to read back",
)
needs_wandb = pytest.mark.skipif(not has("wandb"), reason="needs wandb")


class Heard:
    """A tracker in this process."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def open(self, run: TrackedRun) -> None:
        raise AssertionError("a reader does not open")

    def log(self, points: Sequence[Point]) -> None:
        self.said += [(each.phase, each.step, dict(each.values)) for each in points]

    def rewind(self, phase: str, step: int) -> None:
        self.said.append(("rewind", phase, step))

    def close(self) -> None:
        raise AssertionError("a reader does not close")


def step(phase: str, number: int, **values: float) -> StepFinished:
    metrics: Mapping[str, float] = values or {"loss/mean": number + 0.5}
    return StepFinished(phase=phase, step=number, metrics=metrics)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory, as trackers need it; `own.py` is beside it."""
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "runs" / "mine"
    path.mkdir(parents=True)
    (path / "config.toml").write_text(config.dump(Recipe()))
    (path / "summary.json").write_text('{"success_after": 0.75, "wall_s": 9, "paused": null, "monitor": {}}')
    return path


def own(run: Path, name: str) -> str:
    return f"{run.parents[1] / 'own.py'}:{name}"


def the_beginning() -> list[Event]:
    return [
        RunStarted(name="mine", env="/home/me/secret.py:Env", seed=0),
        step("sft", 0),
        step("sft", 1),
        CheckpointSaved(name="step-0", step=0),
        EvaluationFinished(phase="before", agent="policy", successes=1, num=2, num_all=3),
        step("rl", 0),
        step("rl", 1, **{"reward/mean": float("nan"), "loss/mean": 3.0}),
    ]


def the_rest() -> list[Event]:
    return [
        step("rl", 1),
        EvaluationFinished(phase="after", agent="policy", successes=2, num=2, num_all=2),
        EvaluationFinished(phase="baselines", agent="oracle", successes=2, num=2, num_all=2),
        SummaryWritten(paused=""),
    ]


def write(run: Path, events: Sequence[Event]) -> None:
    with EventLog(path=run / "events.jsonl") as log:
        for event in events:
            log.emit(event)


def hear(run: Path) -> list[tuple[Any, ...]]:
    heard = Heard()
    Reader(run, heard, run / "position.json").take(EventTail(run / "events.jsonl").read())
    return heard.said


async def follow(run: Path, *names: str, events: Sequence[Event] = (), last_s: float = 20.0) -> list[Event]:
    """A run with these trackers; what it logged."""
    with EventLog(path=run / "events.jsonl") as log:
        async with tracking.tracked(
            [own(run, name) if name[0].isupper() else name for name in names], run, log, last_s=last_s
        ):
            for event in events:
                log.emit(event)
    return read_events(run / "events.jsonl")


def warnings_in(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_numbers_become_points_each_once_and_what_is_not_finite_is_left_out(run: Path) -> None:
    write(run, the_beginning())
    heard = hear(run)
    assert heard[0] == ("sft", 0, {"loss/mean": 0.5})
    assert heard[-1] == ("rl", 1, {"loss/mean": 3.0})
    evaluated = next(each for each in heard if each[0] == "heldout")
    assert evaluated[1] == 0 and evaluated[2]["success/rate"] == 0.5 and evaluated[2]["success/void_num"] == 1
    assert hear(run) == []
    write(run, the_rest())
    rest = hear(run)
    assert [(each[0], each[1]) for each in rest] == [
        ("rl", 1),
        ("heldout", 2),
        ("scripts", 2),
        ("summary", 2),
    ]
    assert rest[-1][2] == {"success_after": 0.75, "wall_s": 9.0}


@pytest.mark.parametrize("again", [RunResumed(checkpoint="step-0", step=1), Recovered(why="died", step=1)])
def test_steps_that_are_taken_again_are_rewound_first(run: Path, again: Event) -> None:
    write(run, the_beginning())
    hear(run)
    write(run, [again, *the_rest()])
    assert hear(run)[:2] == [("rewind", "rl", 1), ("rl", 1, {"loss/mean": 1.5})]


def test_a_run_that_begins_again_from_nothing_rewinds_its_cold_start_too(run: Path) -> None:
    write(run, the_beginning()[:3])
    hear(run)
    write(run, [RunResumed(checkpoint="", step=0), step("sft", 0)])
    assert hear(run)[:3] == [("rewind", "sft", 0), ("rewind", "rl", 0), ("sft", 0, {"loss/mean": 0.5})]


def test_a_reader_that_died_before_it_noted_its_position_gets_the_same_again(run: Path) -> None:
    class Fails(Heard):
        def log(self, points: Sequence[Point]) -> None:
            raise OSError("full")

    write(run, the_beginning())
    with pytest.raises(OSError, match="full"):
        Reader(run, Fails(), run / "position.json").take(EventTail(run / "events.jsonl").read())
    assert hear(run)[0][:2] == ("sft", 0)


async def test_a_tracker_of_ones_own_gets_everything_and_goes_on_in_its_folder(run: Path) -> None:
    assert warnings_in(await follow(run, "Lines", events=the_beginning())) == []
    await follow(run, "Lines", events=[RunResumed(checkpoint="step-0", step=1), *the_rest()])
    said = (run / "track" / "Lines" / "lines").read_text()
    lines = said.splitlines()
    assert lines[0] == "open mine False agents" and lines.count("close") == 2
    assert [line for line in lines if line.startswith("rl 1 ")] == [
        "rl 1 [('loss/mean', 3.0)]",
        "rl 1 [('loss/mean', 1.5)]",
    ]
    assert lines.index("rewind rl 1") < lines.index("rl 1 [('loss/mean', 1.5)]")
    assert "secret" not in said


@pytest.mark.parametrize(("name", "why"), [("Raises", "no room left"), ("Dies", "ended with 7")])
async def test_a_tracker_that_fails_is_warned_of_once_and_the_run_and_others_go_on(
    run: Path, name: str, why: str
) -> None:
    with EventLog(path=run / "events.jsonl") as log:
        async with tracking.tracked([own(run, name), own(run, "Lines")], run, log):
            for event in the_beginning():
                log.emit(event)
            with anyio.fail_after(30):
                while not warnings_in(read_events(run / "events.jsonl")):
                    await anyio.sleep(0.05)
                    log.emit(step("rl", 2))
            for event in the_rest():
                log.emit(event)
    found = warnings_in(read_events(run / "events.jsonl"))
    assert len(found) == 1 and why in found[0] and f"track/{name}.log" in found[0]
    assert (run / "track" / "Lines" / "lines").read_text().splitlines()[-1] == "close"


async def test_a_tracker_that_hangs_neither_slows_the_run_nor_keeps_it_from_ending(run: Path) -> None:
    many = [step("rl", number) for number in range(2000)]
    began = time.monotonic()
    events = await follow(run, "Hangs", events=many, last_s=3.0)
    assert time.monotonic() - began < 10
    assert "not finished in time" in warnings_in(events)[0] and len(warnings_in(events)) == 1


def test_a_tracker_ends_with_a_run_that_was_killed_and_has_what_was_written(run: Path) -> None:
    write(run, the_beginning())
    starts = (
        "import subprocess, sys, time\n"
        "words = [sys.executable, '-m', 'agito.record.tracking', *sys.argv[1:]]\n"
        "child = subprocess.Popen(words, stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    words = [sys.executable, "-c", starts, str(run), own(run, "Lines")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PLACES}
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    with anyio_deadline(30):
        while Path(f"/proc/{child}").exists():
            time.sleep(0.05)
    assert (run / "track" / "Lines" / "lines").read_text().splitlines()[-1] == "close"


class anyio_deadline:  # noqa: N801
    """Fails a loop of this thread that goes on for too long."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.alarm(self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)


def test_what_is_no_tracker_is_refused_before_anything_is_made(run: Path) -> None:
    with pytest.raises(NotFound, match="did you mean wandb"):
        tracking.require(["wandbb"])
    with pytest.raises(BadRecipe, match="lacks log, rewind, close"):
        tracking.require([own(run, "Lacks")])
    for name, library in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        if not has(library):
            with pytest.raises(BadRecipe, match="pip install 'agito\\[track\\]'"):
                tracking.require([name])


def test_one_tracker_can_be_named_without_a_list_and_a_path_holds_everywhere() -> None:
    assert read("smoke", ("track.to=wandb",)).track.to == ("wandb",)
    assert read("smoke", ("track.to=own.py:Lines",)).track.to == (f"{Path('own.py').absolute()}:Lines",)
    assert read("smoke").track.to == () and not read("smoke").track.online


def test_a_real_run_tells_its_tracker_what_its_metrics_say(run: Path) -> None:
    home = run.parents[1]
    agito_in(home)(
        "train", "smoke", "--name", "coin", "--admit-anyway", *sets(*COIN, "track.to=own.py:Lines")
    )
    lines = (home / "runs" / "coin" / "track" / "Lines" / "lines").read_text().splitlines()
    measured = read_metrics(home / "runs" / "coin" / "metrics.jsonl")
    told = {(line.split()[0], int(line.split()[1])) for line in lines if line.split()[0] in ("sft", "rl")}
    assert told == {(line.phase, line.step) for line in measured if line.phase in ("sft", "rl")}
    last = next(line for line in measured if line.phase == "rl" and line.step == 2)
    assert f"('tokens/sampled_num', {last.values['tokens/sampled_num']})" in next(
        line for line in lines if line.startswith("rl 2 ")
    )


@needs_tensorboard
async def test_tensorboards_own_reader_finds_every_number_and_steps_taken_again_replaced(run: Path) -> None:
    await follow(run, "tensorboard", events=the_beginning())
    events = await follow(run, "tensorboard", events=[RunResumed(checkpoint="step-0", step=1), *the_rest()])
    assert warnings_in(events) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        def scalars(phase: str, tag: str) -> list[tuple[int, float]]:
            found = EventAccumulator(str(run / "track" / "tensorboard" / phase))
            found.Reload()
            return [(each.step, each.value) for each in found.Scalars(tag)]

        assert scalars("sft", "loss/mean") == [(0, 0.5), (1, 1.5)]
        assert scalars("rl", "loss/mean") == [(0, 0.5), (1, 1.5)]
        assert scalars("heldout", "success/rate") == [(0, 0.5), (2, 1.0)]
        assert scalars("summary", "success_after") == [(2, 0.75)]


@needs_wandb
async def test_an_offline_folder_of_wandb_holds_numbers_and_recipe_and_nothing_of_the_machine(
    run: Path,
) -> None:
    events = await follow(run, "wandb", events=[*the_beginning(), *the_rest()], last_s=60)
    assert warnings_in(events) == []
    folders = list((run / "track" / "wandb" / "wandb").glob("offline-run-*"))
    assert len(folders) == 1
    data = next(folders[0].glob("*.wandb"))
    rows = history(data)
    assert [row["rl/loss/mean"] for row in rows if "rl/step" in row] == [0.5, 3.0]
    assert [row["heldout/success/rate"] for row in rows if "heldout/step" in row] == [0.5, 1.0]
    raw = data.read_bytes()
    assert b"quickstart" not in raw and b"leave_one_out" in raw  # the recipe is there
    for secret in ("secret.py", sys.executable, str(Path.cwd()), os.uname().release, "import agito"):
        assert secret.encode() not in raw, secret
    kept = {file.name for file in (folders[0] / "files").glob("**/*") if file.is_file()}
    assert kept <= {"config.yaml", "wandb-summary.json"}


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of an offline run, by wandb's own messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.proto import wandb_internal_pb2 as messages
    rows: list[dict[str, Any]] = []
    for data in records(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}
            )
    return rows


def records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """Of LevelDB's log format, after wandb's header of 7 bytes: checksum, length and kind (whole, first,
    middle, last) before each piece; a block ends where no other header fits.
    """
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
