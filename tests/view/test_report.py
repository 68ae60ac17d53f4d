from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
import subprocess
from array import array
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agito.errors import DiskFull, NotFound
from agito.record import (
    Metrics,
    Rate,
    RunDir,
    Summary,
    rate,
    rate_over_all,
    rates_by_cell,
    write_trajectories,
)
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Event,
    Fault,
    FinishReason,
    Flag,
    Penalty,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    Trajectory,
    Turn,
    Verdict,
    span,
)
from agito.view import write_report
from agito.view.episodes import read_episodes
from agito.view.rundata import read_run

NASTY = "</script><script>alert(1)</script><!--"
VOID = {
    "id",
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}


def attempt(
    index: int, reward: float | None, *, tries: int = 0, level: int = 1, text: str = "kev=mak\n"
) -> Attempt:
    prompt = {Dialect.COMPACT: f"find key {index}"}
    tags = ("fallback",) if index % 4 == 0 else ()
    task = Task(
        id=f"t-{index}",
        env="shell",
        split="heldout",
        family="find",
        level=level,
        prompt=prompt,
        tools=(),
        tags=tags,
    )
    tokens = Tokens(
        ids=array("i", range(6)),
        logprobs=array("f", [math.nan, math.nan, -0.1, -2.5, -0.0, math.nan]),
        kinds=bytes([0, 0, 1, 1, 3, 0]),
        channels=bytes(6),
        versions=span(1, 6),
    )
    calls = (
        Call(tool="sh", arguments={"command": f"grep {index}"}),
        Call(tool="sh", arguments={}, raw="?", problem="no command"),
    )
    events = (
        Event(index=0, call=calls[0], text=text, exit_code=1, wall_s=0.0021),
        Event(index=1, call=calls[1], text="error: no command", fault=Fault.POLICY, ended=True),
    )
    turn = Turn(segment=0, start=2, stop=5, stopped=FinishReason.END, calls=(0, 1))
    trajectory = Trajectory(
        attempt=AttemptId(group=index, slot=0, tries=tries),
        task=task,
        segments=(Segment(id=0, tokens=tokens),),
        turns=(turn,),
        events=events,
        end=TerminationReason.SUBMITTED,
    )
    verdict = (
        Verdict.void("the sandbox died")
        if reward is None
        else Verdict(status=Status.SCORED, reward=reward, evidence=f"submitted {index}")
    )
    return Attempt(trajectory=trajectory, verdict=verdict)


def piece(policy: str, token: int) -> str:
    return ("<|task|>", "find", "gr", "ep", "<|end|>", "\n")[token]


def save(run: RunDir, phase: str, attempts: list[Attempt]) -> None:
    write_trajectories(run.trajectories, phase, 0, attempts, dialect=Dialect.COMPACT, piece=piece)


def make_run(path: Path, *, num: int = 10, text: str = "kev=mak\n", finished: bool = True) -> Path:
    before = [attempt(i, float(i % 2), text=text) for i in range(num)]
    after = [attempt(i, 1.0 if i % 5 else 0.0, text=text) for i in range(num - 1)] + [
        attempt(num - 1, None, text=text)
    ]
    with RunDir.create(path, f"# {NASTY}\n", {"commit": "abc", "seed": 3, "isolation_tier": "native"}) as run:
        with Metrics(run.metrics) as metrics:
            metrics.write(1, "sft", {"optim/loss": 1.5, "time/train_s": 2.0})
            for step in range(1, 4):
                values = {
                    "success/num": 64,
                    "success/successes": 20 * step,
                    "policy/entropy_nats": math.nan,
                    "time/rollout_s": 1.0,
                }
                metrics.write(step, "rl", values)
            metrics.write(0, "before", {"success/num": 8, "success/successes": 2})
        if finished:
            save(run, "before", before)
            save(run, "after", after)
            Summary(
                commit="abc",
                seed=3,
                isolation_tier="native",
                before=rate(before),
                after=rate(after),
                before_all=rate_over_all(before),
                after_all=rate_over_all(after),
                cells_before=rates_by_cell(before),
                cells_after=rates_by_cell(after),
                baselines={"null": Rate(successes=0, num=9)},
                num_eval_tasks=num,
                wall_s=9.0,
                cpu_s=8.0,
                load=0.5,
                phase_wall_s={"sft": 3.0, "rl": 4.0},
                sampled_tokens=100,
                tool_calls=20,
                tool_cpu_ms_p50=0.8,
                void_attempts=1,
            ).write(run.summary)
            run.finish()
    return path


class Page(HTMLParser):
    """Elements by id, everything that could load something, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        self.loads += [found[name] for name in ("src", "href", "action", "poster", "data") if name in found]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def parsed(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    data, episodes = page.scripts[0], page.scripts[1]
    return json.loads(data), json.loads(gzip.decompress(base64.b64decode(episodes)))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(make_run(tmp_path / "quickstart")).read_text())


def test_the_page_is_whole_and_loads_nothing_from_anywhere(page: Page, tmp_path: Path) -> None:
    assert page.open == []
    assert all(target.startswith("#") or target == "data:," for target in page.loads)
    text = (tmp_path / "quickstart" / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|importScripts|sendBeacon", text)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    # a credit and a namespace: neither is loaded
    assert addresses == {"https://github.com/leeoniya/uPlot", "http://www.w3.org/2000/svg"}


def test_every_section_that_the_scripts_fill_is_there(page: Page) -> None:
    assert {
        "headline",
        "learning",
        "cells",
        "time",
        "episodes",
        "suspects",
        "health",
        "facts",
        "data",
        "episode-data",
    } <= page.ids


def test_it_holds_the_same_tasks_before_and_after_with_their_verdicts(page: Page) -> None:
    data, found = parsed(page)
    assert data["episodes"]["num_shown"] == data["episodes"]["num_total"] == len(found["pairs"]) == 10
    by_task = {pair["task"]: pair for pair in found["pairs"]}
    outcomes = [by_task[f"t-{i}"]["outcome"] for i in range(10)]
    assert outcomes == [
        "wrong",
        "right",
        "fixed",
        "right",
        "fixed",
        "regressed",
        "fixed",
        "right",
        "fixed",
        "void",
    ]
    fixed = by_task["t-2"]
    assert (fixed["prompt"], fixed["cell"], fixed["before"]["success"], fixed["after"]["success"]) == (
        "find key 2",
        "find-1",
        False,
        True,
    )
    assert fixed["after"]["evidence"] == "submitted 2"
    (turn,) = fixed["after"]["turns"]
    assert [found["pieces"][i] for i in turn["ids"]] == ["gr", "ep", "<|end|>"]
    assert turn["logprobs"] == [-10, -250, 0]
    shell, unparsable = turn["events"]
    assert (shell["arguments"], shell["text"], shell["exit"]) == ({"command": "grep 2"}, "kev=mak\n", 1)
    assert (unparsable["fault"], unparsable["problem"], unparsable["ended"]) == ("policy", "no command", 1)
    assert by_task["t-9"]["after"]["success"] is None
    assert by_task["t-4"]["cell"] == "find-1+fallback"


def test_text_from_a_run_never_becomes_markup(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "a<b&c", text=NASTY)).read_text())
    assert len(page.scripts) == 3
    data, found = parsed(page)
    assert NASTY in data["config"]
    assert found["pairs"][0]["after"]["turns"][0]["events"][0]["text"] == NASTY
    assert data["name"] == "a<b&c"


def test_the_scripts_never_set_markup_from_text() -> None:
    source = Path(__file__).parents[2] / "src" / "agito" / "view" / "page"
    for script in source.glob("[a-z]*.js"):
        if script.name != "uPlot.iife.min.js":
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text()
            ), script.name


def test_the_charting_library_keeps_its_licence_on_the_page(page: Page, tmp_path: Path) -> None:
    assert "Leon Sorokin" in (tmp_path / "quickstart" / "report.html").read_text()


def test_what_does_not_fit_is_left_out_evenly_and_said(tmp_path: Path) -> None:
    path = make_run(tmp_path / "one", num=200)
    everything = read_episodes(path / "trajectories", limit_bytes=10**9)
    limit = len(everything.data) // 4
    some = read_episodes(path / "trajectories", limit_bytes=limit)
    assert (everything.num_shown, everything.num_total, some.num_total) == (200, 200, 200)
    assert len(some.data) <= limit
    pairs = json.loads(gzip.decompress(some.data))["pairs"]
    assert 0 < len(pairs) == some.num_shown < 200
    kinds = [(pair["cell"], pair["outcome"]) for pair in pairs]
    counts = {kind: kinds.count(kind) for kind in kinds if kind[1] != "void"}
    assert {outcome for _, outcome in kinds} == {"fixed", "wrong", "regressed", "right", "void"}
    available = {
        (pair["cell"], pair["outcome"]) for pair in json.loads(gzip.decompress(everything.data))["pairs"]
    }
    assert set(kinds) == available
    assert max(counts.values()) - min(counts.values()) <= 12
    assert sum(some.outcomes.values()) == 200


def test_of_a_slot_that_was_tried_again_the_last_try_is_shown(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "one", "", {}) as run:
        save(run, "before", [attempt(0, None), attempt(0, 0.0, tries=1)])
        save(run, "after", [attempt(0, 1.0)])
    (pair,) = json.loads(gzip.decompress(read_episodes(run.trajectories, limit_bytes=10**6).data))["pairs"]
    assert (pair["outcome"], pair["before"]["attempt"]) == ("fixed", "0.0.1")


def test_an_attempt_with_several_agents_names_who_speaks(tmp_path: Path) -> None:
    one = attempt(0, 1.0)
    tokens = one.trajectory.segments[0].tokens
    segments = (
        Segment(id=0, tokens=tokens, agent="planner"),
        Segment(id=1, tokens=tokens, agent="scout", parent=0),
    )
    turns = tuple(Turn(segment=i, start=2, stop=5, stopped=FinishReason.LENGTH, calls=()) for i in (0, 1))
    two = replace(one, trajectory=replace(one.trajectory, segments=segments, turns=turns))
    with RunDir.create(tmp_path / "one", "", {}) as run:
        save(run, "before", [two])
        save(run, "after", [two])
    found = json.loads(gzip.decompress(read_episodes(run.trajectories, limit_bytes=10**6).data))
    planner, scout, loose = found["pairs"][0]["after"]["turns"]
    assert (planner["agent"], scout["agent"], scout["cut"]) == ("planner", "scout", 1)
    assert [found["pieces"][i] for i in scout["ids"]] == ["gr", "ep", "<|end|>"]
    assert len(loose["events"]) == 2  # events that no turn claims are shown all the same


def test_attempts_whose_reward_is_not_believed_are_on_the_page_with_the_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    honest, caught, denied = attempt(0, 1.0), attempt(1, 1.0, text=NASTY), attempt(2, 1.0)
    flag = Flag(kind="canary", is_proof=True, detail="token 7f")
    penalty = Penalty(why="canary: token 7f", reward=-0.5, floor=0.0)
    caught = replace(caught, penalty=penalty, verdict=replace(caught.verdict, flags=(flag,)))
    denied = replace(denied, gold=Verdict(status=Status.SCORED, reward=0.0), gold_chance=0.05)
    write_trajectories(
        run / "trajectories", "rl", 3, [honest, caught, denied], dialect=Dialect.COMPACT, piece=piece
    )
    text = write_report(run).read_text()
    data, _ = parsed(Page(text))
    assert data["suspects"]["num"] == 2
    first, second = data["suspects"]["shown"]
    assert (first["attempt"], first["quarantine"], first["flags"]) == (
        "1.0.0",
        "canary: token 7f",
        ["canary: token 7f"],
    )
    assert (second["attempt"], second["gold"], second["quarantine"]) == ("2.0.0", 0.0, "")
    assert first["events"][0] == {"said": "sh grep 1", "read": NASTY}
    assert NASTY not in text


def test_an_unfinished_run_has_a_report_too(tmp_path: Path) -> None:
    data, found = parsed(Page(write_report(make_run(tmp_path / "one", finished=False)).read_text()))
    assert data["summary"] is None
    assert data["training"]["step"] == [1, 2, 3]
    assert (data["before"]["rate"], data["before"]["num"]) == (0.25, 8)
    assert found["pairs"] == []


def test_a_run_that_only_began_has_a_report_too(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "one", "", {}).close()
    data, _ = parsed(Page(write_report(tmp_path / "one").read_text()))
    assert (data["training"], data["heldout"], data["time"], data["curves"]) == (None, [], [], {})


def test_what_is_not_a_run_has_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no run there"):
        write_report(tmp_path)


def test_the_time_of_a_phase_adds_up_to_what_the_summary_says(tmp_path: Path) -> None:
    rows = {row["phase"]: row for row in read_run(make_run(tmp_path / "one"))["time"]}
    assert rows["sft"] == {"phase": "sft", "total": 3.0, "parts": {"train": 2.0, "other": 1.0}}
    assert rows["rl"] == {"phase": "rl", "total": 4.0, "parts": {"rollout": 3.0, "other": 1.0}}


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = make_run(tmp_path / "one")
    write_report(path)
    old = (path / "report.html").read_bytes()
    (path / ".report.html.partial").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="no space left"):
        write_report(path)
    assert (path / "report.html").read_bytes() == old


def test_the_scripts_are_valid_javascript(page: Page, tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("needs node on PATH")
    script = tmp_path / "page.js"
    script.write_text(page.scripts[2])
    done = subprocess.run(
        [node, "--check", str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_a_real_browser_draws_every_section(page: Page, tmp_path: Path) -> None:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip("needs Chromium on PATH")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    address = (tmp_path / "quickstart" / "report.html").as_uri()
    done = subprocess.run(
        [*command, "--virtual-time-budget=3000", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("could not be drawn") == 1  # in the script itself, nowhere on the page
    assert done.stdout.count("<canvas") >= 2
    for text in ("<h1>Held-out success went from", "find key 2", "policy fault", "exit 1", "submitted 2"):
        assert text in done.stdout, text
