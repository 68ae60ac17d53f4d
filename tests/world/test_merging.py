"""A fork of a workspace is merged whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from agito.envs import load
from agito.errors import Uncapturable
from agito.grading.candidate_box import BOX
from agito.protocols import ForkedSession, ForkingSession, Session
from agito.types import AttemptId, Budget, Call, Dialect, Event, Fault, Task
from agito.worlds.merging import changes, conflicts
from agito.worlds.sandbox import Pool
from agito.worlds.workspace import EDIT, SH, Workspace
from agito.worlds.world import SUBMIT, World

pytestmark = pytest.mark.anyio
LEFT = Budget(turns=9, calls=9, tokens=99)
TREE = {"a.txt": b"one\n", "b/c.txt": b"two\n", "gone.txt": b"three\n"}
TASK = Task(
    id="files-0",
    env="files",
    split="train",
    family="files",
    level=1,
    prompt={Dialect.NATURAL: "mend"},
    tools=(SH, EDIT, SUBMIT),
)


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[World]:
    async with await Pool.open(warm=0) as pool:
        live = World(
            TASK, [Workspace(spec=BOX, tree=TREE).open(pool)], AttemptId(group=0, slot=0), noise_seed=1
        )
        yield live
        await live.close()


async def sh(session: Session, command: str) -> str:
    (event,) = await session.act([Call(tool="sh", arguments={"command": command})], LEFT)
    assert event.exit_code == 0, event.text
    return event.text


async def fork(world: World) -> ForkedSession:
    session = world.session
    assert isinstance(session, ForkingSession) and session.can_fork
    return await session.fork()


async def merge(fork: ForkedSession, *, overwrite: bool = False) -> Event:
    return await fork.merge(Call(tool="merge", arguments={"child": 1}), LEFT, overwrite=overwrite)


async def files(session: Session) -> str:
    return await sh(session, "cd /work; grep -rs '' * | sort; find . -empty -type d")


async def test_a_merge_takes_over_what_was_changed_made_and_removed_and_keeps_what_changed_meanwhile(
    world: World,
) -> None:
    child = await fork(world)
    await sh(child, "echo new > a.txt; mkdir d; echo made > d/e.txt; rm -r gone.txt b")
    await sh(world.session, "echo mine > own.txt")
    assert "made" not in await files(world.session), "it goes its own way until it is merged"
    event = await merge(child)
    assert (event.text, event.fault, event.ended) == ("merged", None, False)
    assert await files(world.session) == "a.txt:new\nd/e.txt:made\nown.txt:mine\n"
    assert (await merge(child)).text == "merged", "the same again changes nothing"
    await child.close()


async def test_where_both_changed_the_same_nothing_is_merged_and_the_paths_are_named(world: World) -> None:
    child = await fork(world)
    await sh(child, "echo theirs > a.txt; echo more > b/c.txt; rm gone.txt; echo x > only.txt")
    await sh(world.session, "echo ours > a.txt; echo ours > gone.txt")
    before = await files(world.session)
    event = await merge(child)
    assert (event.text, event.fault) == ("conflict: a.txt gone.txt", Fault.TOOL)
    assert await files(world.session) == before
    assert (await merge(child, overwrite=True)).text == "merged"
    assert await files(world.session) == "a.txt:theirs\nb/c.txt:more\nonly.txt:x\n"


async def test_a_merge_that_the_workspace_cannot_take_puts_it_back(world: World) -> None:
    child = await fork(world)
    await sh(child, "echo theirs > a.txt; echo theirs > z.txt; rm gone.txt; mkdir zz; echo deep > zz/f")
    await sh(world.session, "ln -s /etc zz")  # a link is no file, and nothing is written through it
    before = await files(world.session)
    event = await merge(child)
    assert event.fault is Fault.TOOL and event.text.startswith("error: the workspace cannot take the files")
    assert await files(world.session) == before
    await sh(world.session, "rm zz")
    assert (await merge(child)).text == "merged"
    assert "zz/f:deep" in await files(world.session)


async def test_a_folder_that_the_parent_locked_is_left_as_it_is(world: World) -> None:
    child = await fork(world)
    await sh(child, "rm gone.txt; echo theirs > a.txt; echo x > b/new; echo y > new")
    await sh(world.session, "chmod 555 .")
    event = await merge(child)
    assert event.fault is Fault.TOOL and event.text.startswith("error: the workspace cannot take the files")
    assert await files(world.session) == "a.txt:one\nb/c.txt:two\ngone.txt:three\n"
    await sh(world.session, "chmod 755 .")
    assert (await merge(child)).text == "merged"
    assert await files(world.session) == "a.txt:theirs\nb/c.txt:two\nb/new:x\nnew:y\n"


async def test_names_that_are_no_text_are_merged_like_any_other(world: World) -> None:
    child = await fork(world)
    await sh(
        child, r"""echo 1 > $'\xff\xfe'; echo 2 > "a'b{x}"; echo 3 > $'new\nline'; rm -r b; echo 4 > b"""
    )
    assert (await merge(child)).text == "merged"
    assert await sh(world.session, r"""cat $'\xff\xfe' "a'b{x}" $'new\nline' b""") == "1\n2\n3\n4\n"
    again = await fork(world)
    await sh(again, r"""rm $'\xff\xfe' "a'b{x}" $'new\nline' b; mkdir b; echo 5 > b/d""")
    assert (await merge(again)).text == "merged"
    assert await files(world.session) == "a.txt:one\nb/d:5\ngone.txt:three\n"


async def test_a_full_workspace_keeps_what_it_had(world: World) -> None:
    child = await fork(world)
    await sh(child, "head -c 9000000 /dev/zero > big; echo theirs > a.txt; rm gone.txt")
    await sh(
        world.session, "while head -c 1000000 /dev/zero >> full$((i++ / 20)) 2>/dev/null; do :; done; true"
    )
    before = await sh(world.session, "cd /work; ls -l --time-style=+; cat a.txt gone.txt")
    event = await merge(child)
    assert event.fault is Fault.TOOL, event.text
    assert await sh(world.session, "cd /work; ls -l --time-style=+; cat a.txt gone.txt") == before


async def test_a_workspace_that_nobody_has_touched_can_be_forked_and_merged_into(world: World) -> None:
    idle = await fork(world)
    assert (await merge(idle)).text == "nothing to merge"
    child = await fork(world)
    await sh(child, "rm a.txt")
    assert (await merge(child)).text == "merged"
    assert "a.txt" not in await files(world.session)


async def test_a_fork_of_a_fork_is_merged_into_the_one_that_it_was_forked_from(world: World) -> None:
    child = await fork(world)
    grandchild = await child.fork()
    await sh(grandchild, "echo deep > a.txt")
    assert (await merge(grandchild)).text == "merged"
    assert "a.txt:deep" in await files(child) and "a.txt:one" in await files(world.session)
    assert (await merge(child)).text == "merged"
    assert "a.txt:deep" in await files(world.session)


async def test_nothing_writes_while_a_merge_is_under_way(world: World) -> None:
    child = await fork(world)
    await sh(child, "echo theirs > a.txt")
    await sh(world.session, "(while :; do echo $RANDOM > a.txt; done) & sleep .05")
    assert (await merge(child)).text == "conflict: a.txt"
    ours = await files(world.session)
    assert await files(world.session) == ours
    await sh(world.session, "(while :; do echo $RANDOM > a.txt; done) & sleep .05")
    assert (await merge(child, overwrite=True)).text == "merged"
    assert "a.txt:theirs" in await files(world.session)


async def test_what_runs_in_a_fork_is_over_before_it_is_merged_and_a_fork_cannot_end_the_episode(
    world: World,
) -> None:
    child = await fork(world)
    await sh(child, "(while :; do echo $RANDOM > a.txt; done) & sleep .05")
    (event,) = await child.act([Call(tool="submit", arguments={"answer": "x"})], LEFT)
    assert event.fault is Fault.POLICY and not event.ended
    assert (await merge(child)).text == "merged"
    first = await sh(child, "cat a.txt")
    assert await sh(child, "cat a.txt") == first == await sh(world.session, "cat a.txt")
    (event,) = await world.session.act([Call(tool="submit", arguments={"answer": "x"})], LEFT)
    assert event.ended


async def test_a_workspace_that_cannot_be_read_cannot_be_forked_and_goes_on(world: World) -> None:
    await sh(world.session, "for i in {1..70}; do mkdir d; cd d; done; echo x > deep; cd /work")
    session = world.session
    assert isinstance(session, ForkingSession)
    with pytest.raises(Uncapturable):
        await session.fork()
    assert await sh(session, "echo on") == "on\n"


async def test_a_fork_meets_faults_of_its_own_which_are_the_same_every_time() -> None:
    environment = load("code")
    task, target = environment.task(split="train", index=0, seed=0)

    async def faults() -> list[list[Fault | None]]:
        control = await environment.open(task, target, AttemptId(group=1, slot=0), noise_seed=3)
        session = control.session
        assert isinstance(session, ForkingSession)
        forks = [await session.fork() for _ in range(2)]
        test, found = Call(tool="test", arguments={}), list[list[Fault | None]]()
        for each in (session, *forks):
            found.append([event.fault for event in await each.act([test] * 30, LEFT)])
        for each in (*forks, control):
            await each.close()
        return found

    first, again = await faults(), await faults()
    await environment.aclose()
    assert first == again and len({tuple(each) for each in first}) == 3


async def test_worlds_that_are_no_single_workspace_cannot_be_forked() -> None:
    for name in ("decisions", "desk", "research"):
        environment = load(name)
        task, target = environment.task(split="train", index=0, seed=0)
        control = await environment.open(task, target, AttemptId(group=0, slot=0), noise_seed=0)
        assert isinstance(control.session, ForkingSession) and not control.session.can_fork
        await control.close()
        await environment.aclose()


@pytest.mark.parametrize(
    ("ours", "theirs", "clashes"),
    [
        ({"a": b"1"}, {"a": b"2"}, ()),
        ({"a": b"3"}, {"a": b"2"}, ("a",)),
        ({"a": b"2"}, {"a": b"2"}, ()),
        ({}, {"a": b"2"}, ("a",)),
        ({"a": b"3"}, {}, ("a",)),
        ({}, {}, ()),
        ({"a": b"1", "new": b"x"}, {"a": b"1", "new": b"y"}, ("new",)),
        ({"a": b"1", "d": b"x"}, {"a": b"1", "d/secret": b"y"}, ("d",)),
        ({"a": b"1", "d/e": b"x"}, {"a": b"1", "d": b"y"}, ("d/e",)),
        ({"a": b"1"}, {"a/b": b"y"}, ()),
        ({"a": b"3"}, {"a/b": b"y"}, ("a",)),
    ],
)
def test_clashes_are_named_by_our_own_paths(
    ours: Mapping[str, bytes], theirs: Mapping[str, bytes], clashes: tuple[str, ...]
) -> None:
    base = {"a": b"1"}
    assert conflicts(base, ours, changes(base, theirs)) == clashes
    forced = conflicts(base, ours, changes(base, theirs), overwrite=True)
    assert {*forced} <= {*clashes} and (not forced or any("/" in each for each in (*ours, *theirs)))
