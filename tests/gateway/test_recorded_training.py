"""From what a gateway served to a policy that was trained on it: served over HTTP, judged by whoever asked,
and imitated token by token where it turned out well.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from tests.gateway.conftest import KEY, real_engine, small_network
from tests.render.test_chat import CHATML, QWEN, write

from agito.cli.gateway import Recorder, outcomes_route
from agito.errors import AgitoError, BadEnvironment, BadRecipe, DiskFull
from agito.gateway import Conversations, Gateway, Terms, app, listening
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import Qwen3
from agito.protocols import Agent, AgentSpec
from agito.recipe import SftSection
from agito.record import outcomes, recording
from agito.record.answers import named
from agito.record.outcomes import read_outcomes, report_outcome
from agito.record.trajectories import write_trajectories
from agito.render import ChatRenderer, read_chat
from agito.runtime.imitation_data import sifted
from agito.training.conversations import as_sampled, samples_for
from agito.types import Attempt, FinishReason, TokenSource, Trajectory

pytestmark = pytest.mark.anyio
NUM, TOKENS = 96, 6
JUDGE = {"authorization": "Bearer judge"}
VOWELS = frozenset("aeiou")


@dataclass(frozen=True)
class Served:
    """A model, and in `folder` what it was recorded to say."""

    folder: Path
    model: Qwen3
    renderer: ChatRenderer
    share: float  # of what turned out well


def is_good(said: str) -> bool:
    return bool(VOWELS & set(said))


@asynccontextmanager
async def gateway(
    model: Qwen3, renderer: ChatRenderer, folder: Path
) -> AsyncGenerator[tuple[httpx.AsyncClient, Recorder]]:
    """As `agito gateway --record` serves, in this process."""
    async with real_engine(renderer.vocab_size, model=model) as engine:
        agent = Agent(spec=AgentSpec(renderer=renderer), engine=engine)
        conversations = Conversations(agent, seed=7, terms=Terms(overrides=False))
        server = Gateway(lambda _: conversations, ["model"], key=KEY, overrides=False)
        recorder, headers = Recorder(folder, conversations), {"authorization": f"Bearer {KEY}"}
        async with (
            listening(server.app(outcomes_route(server, folder, key="judge"))) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client,
        ):
            yield client, recorder
        recorder.close()
        await conversations.aclose()


async def serve(model: Qwen3, renderer: ChatRenderer, folder: Path) -> float:
    """The share that turned out well. Of every twelfth nobody says it."""
    num_good = 0
    async with gateway(model, renderer, folder) as (client, recorder):
        for at in range(NUM):
            messages = [{"role": "user", "content": f"find kev {at}"}]
            body = {"model": "model", "messages": messages, "max_tokens": TOKENS, "seed": at}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            good = is_good(answer["choices"][0]["message"]["content"])
            num_good += good
            if at % 12:
                told = {"id": answer["id"], "success": good}
                assert (await client.post("/v1/outcomes", json=told, headers=JUDGE)).json()[
                    "recorded"
                ] is True
        recorder.write(recorder.new())
    return num_good / NUM


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    home = tmp_path_factory.mktemp("recorded")
    renderer = read_chat(write(home / "model", "byte level", CHATML))
    model = small_network(renderer.vocab_size)
    share = anyio.run(serve, model, renderer, home / "served")
    return Served(home / "served", model, renderer, share)


def recorded(folder: Path, renderer: ChatRenderer, *parts: list[Attempt]) -> None:
    """A recording with these parts, and nobody's word on how they turned out."""
    recording.begin(folder, renderer)
    for part, attempts in enumerate(parts):
        kind, dialect = recording.SERVED, renderer.dialect
        write_trajectories(folder, kind, part, attempts, dialect=dialect, piece=lambda policy, token: "")


def named_in(attempt: Attempt) -> list[str]:
    return list(named(attempt.trajectory))


def section(path: Path, least_reward: float | None = None) -> SftSection:
    return SftSection(messages=str(path), least_reward=least_reward)


def trajectories(path: Path, least_reward: float | None = None) -> list[Trajectory]:
    kept = sifted(section(path, least_reward)).kept
    assert all(isinstance(each, Trajectory) for each in kept)
    return [each for each in kept if isinstance(each, Trajectory)]


def test_a_model_learns_from_what_it_was_served_where_that_turned_out_well(
    served: Served, tmp_path: Path
) -> None:
    found = sifted(section(served.folder))
    model = small_network(served.renderer.vocab_size)
    trainer = LocalTrainer(model, TrainerConfig(minibatches=1))
    samples, steps = samples_for(found, served.renderer), 30
    trainer.begin_phase("sft", steps)
    losses = [trainer.sft_step(samples[at % 4 :: 4]).values["sft/loss_nats"] for at in range(steps)]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4]), losses
    after = anyio.run(serve, model, served.renderer, tmp_path)
    assert after > served.share + 0.25, (served.share, after)


def test_what_is_left_out_is_counted_by_its_reason(served: Served) -> None:
    found, num_unjudged = sifted(section(served.folder)), NUM // 12
    num_failed = NUM - num_unjudged - len(found.kept)
    assert 0.1 * NUM < len(found.kept) < 0.7 * NUM
    assert found.left_out == {"without an outcome": num_unjudged, "no success": num_failed}
    assert f"{len(found.kept)} of {NUM} conversations are imitated" in found.told()
    assert f"{num_failed} no success" in found.told() and f"{num_unjudged} without an outcome" in found.told()


async def test_an_outcome_that_is_none_is_refused_and_so_is_one_without_the_key(
    served: Served, tmp_path: Path
) -> None:
    bad: tuple[Any, ...] = (
        {"id": "x"},
        {"success": True},
        {"id": "x", "reward": "much"},
        {"id": "x", "session": "y", "reward": 1},
        {"id": "x", "reward": 1, "score": 2},
        [],
    )
    async with gateway(served.model, served.renderer, tmp_path) as (client, _):
        for each in bad:
            response = await client.post("/v1/outcomes", json=each, headers=JUDGE)
            assert response.status_code == 400 and response.json()["error"]["message"], each
        told = {"id": "x", "reward": 1}
        for other in ({"authorization": "Bearer other"}, {}):  # without it: the agent's own key
            assert (await client.post("/v1/outcomes", json=told, headers=other)).status_code == 401
        model = {"model": "model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        assert (await client.post("/v1/chat/completions", json=model, headers=JUDGE)).status_code == 401
    assert not (tmp_path / "outcomes.jsonl").exists()


async def test_each_choice_of_an_answer_and_each_session_has_an_outcome_of_its_own(
    served: Served, tmp_path: Path
) -> None:
    async with gateway(served.model, served.renderer, tmp_path) as (client, recorder):
        body = {"model": "model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "n": 3}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        said = {each["index"]: each["message"]["content"] for each in answer["choices"]}
        for text in ("y", "z"):
            body |= {"messages": [{"role": "user", "content": text}], "n": 1}
            headers = {"x-session-id": "order-7"}
            await client.post("/v1/chat/completions", json=body, headers=headers)
        recorder.write(recorder.new())
        report_outcome(tmp_path, {"id": f"{answer['id']}/2", "success": True})
        report_outcome(tmp_path, {"id": answer["id"], "success": False})
        (kept,) = trajectories(tmp_path)
        assert kept.task.messages[-1]["content"] == said[2]
        report_outcome(tmp_path, {"session": "order-7", "reward": 1})
        assert len(trajectories(tmp_path)) == 3


def test_recorded_tokens_are_imitated_as_they_were_sampled_and_never_tokenised_again(served: Served) -> None:
    found, renderer = sifted(section(served.folder)), served.renderer
    samples = samples_for(found, renderer)
    assert len(samples) == len(found.kept) > 10
    parts = trajectories(served.folder)
    for sample, trajectory in zip(samples, parts, strict=True):
        (segment,) = trajectory.segments
        assert sample.ids == segment.tokens.ids
        assert [bool(mark) for mark in sample.trainable] == segment.tokens.is_sampled
        said = renderer.text(
            array("i", [token for token, mark in zip(sample.ids, sample.trainable, strict=True) if mark])
        )
        assert is_good(said)


def test_what_another_vocabulary_sampled_is_written_anew_from_its_messages(
    served: Served, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", "byte level", QWEN)
    found, renderer = sifted(section(served.folder)), read_chat(other)
    samples = samples_for(found, renderer)
    assert len(samples) == len(found.kept)
    for sample, trajectory in zip(samples, trajectories(served.folder), strict=True):
        said = [token for token, mark in zip(sample.ids, sample.trainable, strict=True) if mark]
        assert str(trajectory.task.messages[-1]["content"]) in renderer.text(array("i", said))
        assert sample.ids != trajectory.segments[0].tokens.ids


def test_tokens_of_another_vocabulary_without_words_are_refused(served: Served, tmp_path: Path) -> None:
    found = sifted(section(served.folder))
    bare = tuple(
        replace(each, task=replace(each.task, messages=()))
        for each in found.kept
        if isinstance(each, Trajectory)
    )
    with pytest.raises(BadRecipe, match=r"another vocabulary .* no messages"):
        samples_for(replace(found, kept=bare), read_chat(write(tmp_path, "byte level", QWEN)))


def test_a_folder_that_holds_another_models_conversations_is_not_written(
    served: Served, tmp_path: Path
) -> None:
    recording.begin(served.folder, served.renderer)
    with pytest.raises(AgitoError, match="of another vocabulary served; choose another folder"):
        recording.begin(served.folder, read_chat(write(tmp_path, "byte level", QWEN)))


def test_a_turn_that_nobody_was_answered_is_not_imitated(served: Served) -> None:
    trajectory = trajectories(served.folder)[0]
    (sample,) = as_sampled(trajectory)
    assert sample.num_trainable > 0
    gone = [replace(turn, stopped=FinishReason.CANCELLED) for turn in trajectory.turns]
    assert list(as_sampled(replace(trajectory, turns=tuple(gone)))) == []
    (segment,) = trajectory.segments
    assert TokenSource.SAMPLED in segment.tokens.kinds


def test_a_conversation_that_went_on_in_a_later_part_is_imitated_once_as_it_was_last(
    served: Served, tmp_path: Path
) -> None:
    whole = list(recording.read(served.folder).attempts[:3])
    later = replace(whole[0], trajectory=replace(whole[0].trajectory, detail="later"))
    recorded(tmp_path, served.renderer, whole, [later])
    for each in whole:
        report_outcome(tmp_path, {"id": named_in(each)[0].removesuffix("/0"), "reward": 0.5})
    kept = trajectories(tmp_path, least_reward=0.5)
    assert [each.detail for each in kept] == ["later", "", ""]
    report_outcome(tmp_path, {"id": named_in(whole[1])[0], "reward": 0.4})  # said again
    report_outcome(tmp_path, {"session": "nobody's", "success": True})
    assert len(trajectories(tmp_path, least_reward=0.5)) == 2
    assert (
        "1 below sft.least_reward=0.5; outcomes of none of them: 1" in sifted(section(tmp_path, 0.5)).told()
    )
    with pytest.raises(BadRecipe, match="0 of 3 conversations are imitated, 3 no success"):
        sifted(section(tmp_path))


def test_a_recording_without_outcomes_is_refused_with_where_to_report_them(
    served: Served, tmp_path: Path
) -> None:
    recording.begin(tmp_path, served.renderer)
    with pytest.raises(BadRecipe, match="nothing is in it"):
        sifted(section(tmp_path))
    some = list(recording.read(served.folder).attempts[:3])
    recorded(tmp_path, served.renderer, some)
    with pytest.raises(BadRecipe, match=r"3 without an outcome; report outcomes to POST /v1/outcomes"):
        sifted(section(tmp_path))
    report_outcome(tmp_path, {"id": named_in(some[0])[0], "reward": 2})
    assert len(trajectories(tmp_path)) == 1
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write('{"session": 4}\n')
    with pytest.raises(BadEnvironment, match="line 2"):
        sifted(section(tmp_path))


LINES = [
    ({"reward": 1}, True, True),
    ({"reward": 0.7}, False, True),
    ({"reward": 0.7, "success": True}, True, True),
    ({"reward": 3.0, "success": False}, False, True),
    ({"success": True}, True, True),
    ({"success": 0}, False, False),
    ({"reward": -1}, False, False),
    ({"reward": None}, False, False),
    ({}, False, False),
]


def test_lines_with_outcomes_are_sifted_by_them_and_lines_of_a_file_without_any_are_all_imitated(
    tmp_path: Path,
) -> None:
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "talk.jsonl"
    for at, least in enumerate((None, 0.5)):
        for line, *passes in LINES:
            path.write_text("".join(f"{json.dumps(talk | each)}\n" for each in (line, {"reward": 5.0})))
            assert len(sifted(section(path, least)).kept) == 1 + passes[at], (line, least)
    path.write_text(f"{json.dumps(talk)}\n" * 3)
    assert len(sifted(section(path)).kept) == 3
    with pytest.raises(BadRecipe, match="3 without an outcome"):
        sifted(section(path, 0.5))
    for bad in ({"reward": "high"}, {"reward": True}, {"success": "yes"}, {"success": 2}):
        path.write_text(f"{json.dumps(talk | bad)}\n")
        with pytest.raises(BadEnvironment, match=r"row 1: (reward|success)"):
            sifted(section(path))


def test_an_outcome_that_was_written_in_part_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report_outcome(tmp_path, {"id": "a", "reward": 1})

    class Full(FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:5])

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda self, *_, **__: Full(self, "ab"))
        with pytest.raises(DiskFull, match="no space left"):
            report_outcome(tmp_path, {"id": "b", "reward": 1})
    report_outcome(tmp_path, {"session": "c" * 200, "reward": 1})
    found = read_outcomes(tmp_path)
    assert [(each.answer, each.session) for each in found] == [("a/0", ""), ("", "c" * outcomes.MOST_SESSION)]
    assert outcomes.MOST_SESSION == app.MOST_SESSION
