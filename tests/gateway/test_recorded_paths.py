"""Of a conversation that went on in several ways: what led to a good answer is imitated, and nothing else;
and no answer is lost on its way to the folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.gateway.test_recorded_training import recorded as written
from tests.gateway.test_recorded_training import section
from tests.gateway.test_recording_filter import Client, recorded, user
from tests.render.test_chat import CHATML, QWEN, write

from agito.cli.gateway import Recorder, forget
from agito.errors import AgitoError, BadRecipe
from agito.record import recording
from agito.record.answers import named
from agito.record.outcomes import report_outcome
from agito.render import ChatRenderer, read_chat
from agito.runtime.imitation_data import sifted
from agito.training.conversations import samples_for
from agito.types import Trajectory

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return read_chat(write(tmp_path_factory.mktemp("model"), "byte level", CHATML))


@pytest.fixture
async def talking(renderer: ChatRenderer, tmp_path: Path) -> AsyncGenerator[tuple[Client, Recorder]]:
    async with recorded(renderer, tmp_path / "served") as found:
        yield found


async def asked_thrice(client: Client) -> None:
    """One answer, then three choices at the second turn, of which nobody has said anything yet."""
    first = await client.say("first", [user("a")])
    await client.say("choices", [user("a"), first, user("and?")], n=3)


def places(client: Client) -> dict[str, tuple[int, int, int]]:
    """Segment, start and stop of each answer by its name."""
    found = dict[str, tuple[int, int, int]]()
    for attempt in recording.read(client.folder).attempts:
        turns = attempt.trajectory.turns
        for name, at in named(attempt.trajectory).items():
            assert at is not None
            found[name] = (turns[at].segment, turns[at].start, turns[at].stop)
    return found


def names(client: Client, *wanted: tuple[str, int]) -> list[str]:
    """Of answers, each by what it was asked as, and its choice."""
    return [f"{client.answers[asked][0]['id']}/{choice}" for asked, choice in wanted]


def imitated(client: Client, renderer: ChatRenderer) -> set[str]:
    """The names of the answers whose tokens are trained on; each as a whole, and once."""
    at = places(client)
    found, marked = set[str](), 0
    for sample in samples_for(sifted(section(client.folder)), renderer):
        marked += sum(sample.trainable)
        for name, (segment, start, stop) in at.items():
            if segment == sample.segment and any(sample.trainable[start:stop]):
                assert all(sample.trainable[start:stop]), name
                found.add(name)
    assert marked == sum(stop - start for _, start, stop in map(at.__getitem__, found))
    return found


def told(client: Client, *outcomes: tuple[str, bool]) -> None:
    for name, success in outcomes:
        report_outcome(client.folder, {"id": name, "success": success})


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0)])
async def test_of_several_choices_the_good_one_is_imitated_in_whatever_order_they_are_judged(
    talking: tuple[Client, Recorder], renderer: ChatRenderer, order: Sequence[int]
) -> None:
    client, recorder = talking
    await asked_thrice(client)
    recorder.write(recorder.new())
    first, *choices = names(client, ("first", 0), ("choices", 0), ("choices", 1), ("choices", 2))
    told(client, *[(choices[each], each == 1) for each in order])
    assert imitated(client, renderer) == {first, choices[1]}


async def test_what_nobody_judged_is_not_imitated_and_neither_is_what_led_to_failures_alone(
    talking: tuple[Client, Recorder], renderer: ChatRenderer
) -> None:
    client, recorder = talking
    await asked_thrice(client)
    recorder.write(recorder.new())
    first, *choices = names(client, ("first", 0), ("choices", 0), ("choices", 1), ("choices", 2))
    with pytest.raises(BadRecipe, match="1 without an outcome"):
        sifted(section(client.folder))
    told(client, (first, True))
    assert imitated(client, renderer) == {first}, "what went on from it three ways has to be judged by itself"
    told(client, (first, False), (choices[0], False))
    with pytest.raises(BadRecipe, match="1 no success"):
        sifted(section(client.folder))
    told(client, (choices[2], True))
    assert imitated(client, renderer) == {first, choices[2]}, "a success lies behind the failure"
    told(client, (choices[0], True))
    assert imitated(client, renderer) == {first, choices[0], choices[2]}, "what they share once"


async def test_a_retry_and_a_branch_are_judged_apart_and_a_path_as_a_whole(
    talking: tuple[Client, Recorder], renderer: ChatRenderer
) -> None:
    client, recorder = talking
    base = [user("a"), await client.say("first", [user("a")]), user("and?")]
    await client.say("given up", base)
    second = [*base, await client.say("retry", base), user("more")]
    await client.say("last", [*second[:-1], user("more")])
    recorder.write(recorder.new())
    first, given_up, retry, last = names(client, ("first", 0), ("given up", 0), ("retry", 0), ("last", 0))
    told(client, (given_up, False), (last, True))
    assert imitated(client, renderer) == {first, retry, last}
    told(client, (retry, False))
    with pytest.raises(
        BadRecipe, match="1 no success"
    ):  # nobody went on otherwise: it is one path's, said again
        sifted(section(client.folder))
    told(client, (given_up, True))
    assert imitated(client, renderer) == {first, given_up}


async def test_a_sessions_outcome_is_that_of_its_last_answer(
    talking: tuple[Client, Recorder], renderer: ChatRenderer
) -> None:
    client, recorder = talking
    base = [user("a"), await client.say("first", [user("a")], session="s"), user("and?")]
    await client.say("given up", base, session="s")
    await client.say("retry", base, session="s")
    recorder.write(recorder.new())
    report_outcome(client.folder, {"session": "s", "success": True})
    first, given_up, retry = names(client, ("first", 0), ("given up", 0), ("retry", 0))
    assert imitated(client, renderer) == {first, retry}
    told(client, (retry, False), (given_up, True))
    assert imitated(client, renderer) == {first, given_up}


async def test_another_model_is_shown_the_words_of_the_last_path_where_they_turned_out_well(
    talking: tuple[Client, Recorder], tmp_path: Path
) -> None:
    client, recorder = talking
    base = [user("a"), await client.say("first", [user("a")]), user("and?")]
    await client.say("bad", [*base[:-1], user("bad way")])
    await client.say("good", [*base[:-1], user("good way")])
    recorder.write(recorder.new())
    other = read_chat(write(tmp_path / "other", "byte level", QWEN))
    bad, good = names(client, ("bad", 0), ("good", 0))
    told(client, (bad, False), (good, True))
    texts = [other.text(sample.ids) for sample in samples_for(sifted(section(client.folder)), other)]
    assert any("good way" in text for text in texts) and not any("bad way" in text for text in texts)
    told(client, (bad, True), (good, False))
    with pytest.raises(BadRecipe, match="holds no messages"):
        samples_for(sifted(section(client.folder)), other)


async def test_answers_that_come_while_a_full_part_is_written_are_kept_and_can_be_judged(
    talking: tuple[Client, Recorder],
) -> None:
    client, recorder = talking
    with pytest.raises(AgitoError, match=f"process {os.getpid()} is recording here; choose another folder"):
        Recorder(client.folder, recorder.conversations)
    recorder.close()
    recorder = Recorder(client.folder, recorder.conversations, part_size=2)
    one = [user("a"), await client.say("a", [user("a")])]
    await client.say("b", [user("b")])
    batch = recorder.new()
    await client.say("c", [user("c")])  # while the batch is on its way
    await client.say("a goes on", [*one, user("and?")])
    await anyio.to_thread.run_sync(recorder.write, batch)
    await client.say("d", [user("d")])
    recorder.write(recorder.new())
    wanted = names(client, *[(name, 0) for name in ("a", "b", "c", "a goes on", "d")])
    assert set(places(client)) == {*wanted} - {wanted[0]}, "the later part names only its own"
    told(client, *[(name, True) for name in wanted[:3]], (wanted[4], True))
    found = sifted(section(client.folder))
    assert found.num_strange == 0 and len(found.kept) == 4
    assert sum(len(each.turns) for each in found.kept if isinstance(each, Trajectory)) == 5
    assert len(list(client.folder.glob("served-*.parquet"))) == 2


async def test_of_two_batches_of_a_part_the_later_stays(talking: tuple[Client, Recorder]) -> None:
    client, recorder = talking
    await client.say("a", [user("a")])
    early = recorder.new()
    await client.say("b", [user("b")])
    recorder.write(recorder.new())
    thread = threading.Thread(target=recorder.write, args=(early,))
    thread.start()
    thread.join()
    assert set(places(client)) == {*names(client, ("a", 0), ("b", 0))}


async def test_what_is_forgotten_is_recorded_before_and_no_token_is_imitated_twice(
    talking: tuple[Client, Recorder], renderer: ChatRenderer
) -> None:
    client, recorder = talking
    await client.say("old", [user("x")])
    await client.say("other", [user("y")])
    base = [user("a"), await client.say("first", [user("a")]), user("and?")]
    await client.say("branch", [*base[:-1], user("otherwise")])
    going_on = [*base, await client.say("second", base), user("more")]
    await forget(recorder.conversations, recorder, 1)
    assert len(recorder.conversations.tree.lines) == 1
    await client.say("third", going_on)
    recorder.write(recorder.new())
    told(client, *[(name, True) for name in names(client, *[(each, 0) for each in client.answers])])
    found = sifted(section(client.folder))
    assert found.num_strange == 0 and len(found.kept) == 4
    samples = samples_for(found, renderer)
    assert sum(map(sum, (each.trainable for each in samples))) == client.num_sampled(*client.answers)


async def test_a_recording_without_places_is_judged_as_a_whole_where_it_went_one_way(
    talking: tuple[Client, Recorder], renderer: ChatRenderer, tmp_path: Path
) -> None:
    client, recorder = talking
    await asked_thrice(client)
    one = [user("b"), await client.say("one way", [user("b")])]
    await client.say("goes on", [*one, user("and?")])
    recorder.write(recorder.new())
    bare = list(recording.read(client.folder).attempts)
    for at, each in enumerate(bare):
        task = replace(each.trajectory.task, tags=tuple(named(each.trajectory)))
        bare[at] = replace(each, trajectory=replace(each.trajectory, task=task))
    old = replace(client, folder=tmp_path / "old")
    written(old.folder, renderer, bare)
    told(old, *[(name, True) for name in names(client, ("choices", 1), ("one way", 0))])
    found = sifted(section(old.folder))
    assert found.num_strange == 1 and found.left_out == {"without an outcome": 1}
    samples = samples_for(found, renderer)
    assert sum(map(sum, (each.trainable for each in samples))) == client.num_sampled("one way", "goes on")
