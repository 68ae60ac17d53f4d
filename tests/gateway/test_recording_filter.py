"""Which tokens of what was served are imitated: those that were sampled in conversations that turned out
well, each once, whatever a client did with its history; and which attempts of a run.
"""

from __future__ import annotations

import json
import math
import shutil
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from tests.gateway.conftest import KEY, offers, real_engine, small_network
from tests.gateway.test_recorded_training import section
from tests.render.test_chat import CHATML, QWEN, write
from tests.test_policies import pretrained

from agito.cli.gateway import Recorder
from agito.gateway import Conversations, Gateway, Terms, listening
from agito.protocols import MAIN, Agent, AgentSpec
from agito.record import recording
from agito.record.outcomes import report_outcome
from agito.record.trajectories import write_trajectories
from agito.render import ChatRenderer, read_chat
from agito.runtime.imitation_data import Sifted, sifted
from agito.testing.fakes import TOOLS
from agito.training.conversations import as_sampled, samples_for
from agito.types import (
    Attempt,
    AttemptId,
    FinishReason,
    Json,
    Penalty,
    Sample,
    TokenSource,
    Trajectory,
    Verdict,
)

TOKENS = 6


@dataclass
class Client:
    """Talks with a gateway that records, and keeps what each conversation was answered."""

    http: httpx.AsyncClient
    folder: Path
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    async def say(
        self, name: str, messages: Sequence[object], *, session: str = "", **more: object
    ) -> dict[str, Any]:
        headers = {"x-session-id": session} if session else {}
        body = {"model": "m", "messages": messages, "max_tokens": TOKENS, **more}
        response = await self.http.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        self.answers.setdefault(name, []).append(answer)
        return answer["choices"][0]["message"]

    def turned_out(self, name: str, at: int, **outcome: Json) -> None:
        report_outcome(self.folder, {"id": self.answers[name][at]["id"], **outcome})

    def num_sampled(self, *names: str) -> int:
        return sum(each["usage"]["completion_tokens"] for name in names for each in self.answers[name])


@asynccontextmanager
async def recorded(renderer: ChatRenderer, folder: Path) -> AsyncGenerator[tuple[Client, Recorder]]:
    async with real_engine(renderer.vocab_size, model=small_network(renderer.vocab_size)) as engine:
        agent = Agent(spec=AgentSpec(renderer=renderer), engine=engine)
        conversations = Conversations(agent, seed=7, terms=Terms(overrides=False))
        server = Gateway(lambda _: conversations, ["m"], key=KEY, overrides=False)
        recorder, headers = Recorder(folder, conversations), {"authorization": f"Bearer {KEY}"}
        async with (
            listening(server.app()) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http,
        ):
            yield Client(http, folder), recorder
        recorder.close()
        await conversations.aclose()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def _talked(renderer: ChatRenderer, folder: Path) -> Client:
    """Conversations of every kind, in two parts."""
    async with recorded(renderer, folder) as (client, recorder):
        going_on = [user("a"), await client.say("goes on", [user("a")]), user("and?")]
        base = [user("b"), await client.say("branches", [user("b")])]
        await client.say("branches", [*base, user("one way")])
        await client.say("branches", [*base, user("other way")])
        await client.say("rewritten", [user("c")])
        changed = [user("c"), {"role": "assistant", "content": "not what was said"}, user("go on")]
        await client.say("rewriting", changed)
        call = {"id": "1", "type": "function", "function": {"name": "open", "arguments": '{"box": "1"}'}}
        shown = [
            user("d"),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "the coin is here"},
        ]
        choice = {"type": "function", "function": {"name": "open"}}
        await client.say("forced", shown, tools=offers(), tool_choice=choice, max_tokens=12)
        await client.say("failed", [user("e")])
        await client.say("unjudged", [user("f")])
        await client.say("session", [user("g")], session="one")
        await client.say("other session", [user("h")], session="two")
        recorder.write(recorder.new(ends_part=True))
        await client.say("goes on", going_on)
        recorder.write(recorder.new())
        return client


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return read_chat(write(tmp_path_factory.mktemp("model"), "byte level", CHATML))


@pytest.fixture(scope="module")
def served(renderer: ChatRenderer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return anyio.run(_talked, renderer, tmp_path_factory.mktemp("served"))


@pytest.fixture
def talked(served: Client, tmp_path: Path) -> Client:
    """Nobody has said yet how any of it turned out."""
    return replace(served, folder=Path(shutil.copytree(served.folder, tmp_path / "served")))


GOOD = ("goes on", "branches", "rewriting", "forced", "session")


def judge(client: Client) -> Sifted:
    client.turned_out("goes on", 0, success=True)  # by an answer of the part before
    client.turned_out("branches", -1, reward=1.0)
    client.turned_out("rewritten", 0, success=False)
    client.turned_out("rewriting", 0, success=True)
    client.turned_out("forced", 0, success=True, reward=-3)
    client.turned_out("failed", 0, success=True)
    client.turned_out("failed", 0, success=False, reward=2)  # said again
    report_outcome(client.folder, {"session": "one", "success": True})
    report_outcome(client.folder, {"session": "two", "reward": 0.9})
    return sifted(section(client.folder))


def num_trainable(samples: Sequence[Sample]) -> int:
    return sum(sum(sample.trainable) for sample in samples)


def test_exactly_what_was_sampled_in_good_conversations_is_imitated_and_each_token_once(
    talked: Client, renderer: ChatRenderer
) -> None:
    found = judge(talked)
    assert found.left_out == {"without an outcome": 1, "no success": 3} and len(found.kept) == len(GOOD)
    samples = samples_for(found, renderer)
    (_, elsewhere, _) = talked.answers["branches"]
    unnamed = elsewhere["usage"]["completion_tokens"]
    assert num_trainable(samples) == talked.num_sampled(*GOOD) - unnamed
    segments = {
        (each.attempt, segment.id): segment
        for each in found.kept
        if isinstance(each, Trajectory)
        for segment in each.segments
    }
    for sample in samples:
        segment = segments[sample.attempt, sample.segment]
        marked = [kind for kind, mark in zip(segment.tokens.kinds, sample.trainable, strict=True) if mark]
        assert sample.ids == segment.tokens.ids
        assert set(marked) <= {TokenSource.SAMPLED, TokenSource.CONTROL}
        assert [at == 1.0 for at in sample.advantages] == [bool(mark) for mark in sample.trainable]
    assert any(TokenSource.FORCED in segment.tokens.kinds for segment in segments.values())
    assert sum(segment.parent is not None for segment in segments.values()) == 1, "the branch"


def test_for_another_vocabulary_the_whole_of_each_conversation_is_written_anew(
    talked: Client, tmp_path: Path
) -> None:
    found = judge(talked)
    other = read_chat(write(tmp_path / "other", "byte level", QWEN))
    samples = samples_for(found, other)
    texts = [other.text(sample.ids) for sample in samples]
    said = [each["choices"][0]["message"]["content"] for each in talked.answers["goes on"]]
    (whole,) = [text for text in texts if "and?" in text]
    assert all(each.strip() in whole for each in said)
    assert [("one way" in text, "other way" in text) for text in texts].count((False, True)) == 1
    assert not any("one way" in text for text in texts), "it is the last answer's"
    (shown,) = [text for text in texts if "the coin is here" in text]
    assert TOOLS[0].description and TOOLS[0].description in shown, "its tools are offered"
    for sample in samples:
        marked = array("i", [token for token, mark in zip(sample.ids, sample.trainable, strict=True) if mark])
        assert "the coin is here" not in other.text(marked) and "user" not in other.text(marked)


def test_what_nobody_waited_for_is_left_out_of_its_own_segment_alone(
    talked: Client, renderer: ChatRenderer
) -> None:
    found = judge(talked)
    (branched,) = [each for each in found.kept if isinstance(each, Trajectory) and len(each.segments) > 1]
    last = branched.turns[-1]
    gone = replace(branched, turns=(*branched.turns[:-1], replace(last, stopped=FinishReason.CANCELLED)))
    before, after = num_trainable(list(as_sampled(branched))), num_trainable(list(as_sampled(gone)))
    assert before - after == last.stop - last.start
    frozen = tuple(replace(segment, policy="frozen") for segment in branched.segments[:1])
    mixed = list(as_sampled(replace(branched, segments=(*frozen, *branched.segments[1:]))))
    assert [sample.policy for sample in mixed] == [MAIN]
    assert num_trainable(mixed) == last.stop - last.start
    assert all(math.isnan(each) for sample in mixed for each in sample.logprobs)


def test_of_a_run_what_it_tried_in_training_and_scored_well_is_imitated(
    talked: Client, renderer: ChatRenderer, tmp_path: Path
) -> None:
    trajectory = judge(talked).kept[0]
    assert isinstance(trajectory, Trajectory)
    good, bad = (Verdict.scored(reward, evidence="", grade_seed=0) for reward in (1.0, 0.0))
    graded = replace(good, reward=3.0, scores={"success": 0.0})
    kinds = (
        (good, None),
        (bad, None),
        (graded, None),
        (Verdict.void("the engine is gone"), None),
        (good, Penalty(why="a canary", reward=-1.0, floor=0.0)),
    )
    run = tmp_path / "run"
    pretrained(run / "checkpoints" / "final")
    (run / "run.json").write_text(json.dumps({"finished": True}))
    (run / "trajectories").mkdir()
    for number, phase in enumerate(("demo", "before", "rl", "after")):
        attempts = [
            Attempt(
                trajectory=replace(trajectory, attempt=AttemptId(group=10 * number + slot, slot=0)),
                verdict=verdict,
                penalty=penalty,
            )
            for slot, (verdict, penalty) in enumerate(kinds)
        ]
        write_trajectories(
            run / "trajectories", phase, 0, attempts, dialect=renderer.dialect, piece=lambda policy, token: ""
        )
    found = sifted(section(run))
    assert [each.attempt.group for each in found.kept if isinstance(each, Trajectory)] == [0, 20]
    assert found.left_out == {"no success": 4, "without an outcome": 2, "penalised": 2}
    rewarded = sifted(section(run, least_reward=3.0))
    assert [each.attempt.group for each in rewarded.kept if isinstance(each, Trajectory)] == [2, 22]


def test_of_a_file_the_assistants_words_alone_are_imitated_and_never_what_a_tool_said(
    renderer: ChatRenderer, tmp_path: Path
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "open", "arguments": '{"box": "1"}'}}
    messages = [
        {"role": "system", "content": "you are told"},
        user("asked"),
        {"role": "assistant", "content": "thinking aloud", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "result of the tool"},
        {"role": "assistant", "content": "answered"},
    ]
    rows = [
        {"messages": messages, "tools": offers(), "success": True},
        {"messages": [user("never"), {"role": "assistant", "content": "bad"}], "success": False},
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    samples = samples_for(sifted(section(path)), renderer)
    marked = "|".join(
        renderer.text(array("i", [t for t, mark in zip(each.ids, each.trainable, strict=True) if mark]))
        for each in samples
    )
    assert "thinking aloud" in marked and "answered" in marked and '"box"' in marked
    for unsaid in ("you are told", "asked", "result of the tool", "bad", "never"):
        assert unsaid not in marked.replace("answered", "").replace("thinking aloud", ""), unsaid


def test_a_recording_is_read_with_each_conversation_once(talked: Client) -> None:
    found = recording.read(talked.folder)
    groups = [each.trajectory.attempt.group for each in found.attempts]
    assert len(groups) == len(set(groups)) == 9
    assert len(list(talked.folder.glob("served-*.parquet"))) == 2
