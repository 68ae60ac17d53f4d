"""A workspace: shell, editor and snippets share one file tree; it starts late and forks whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agito.grading.candidate_box import BOX
from agito.types import Call
from agito.worlds.component import spec
from agito.worlds.sandbox import Pool
from agito.worlds.workspace import LiveWorkspace, Snippet, Workspace

COUNT = Snippet(tool=spec("count", "Counts files."), code="import os\nprint(len(os.listdir('/work')))")
TREE = {"a.txt": b"one two\n", "b/c.txt": b"x=1;x=1\n"}


@pytest.fixture
async def workspace(anyio_backend: str) -> AsyncIterator[LiveWorkspace]:
    async with await Pool.open(warm=0) as pool:
        live = Workspace(spec=BOX, tree=TREE, snippets=(COUNT,)).open(pool)
        yield live
        await live.close()


async def said(workspace: LiveWorkspace, tool: str, **arguments: str) -> tuple[str, int | None]:
    answer = await workspace.call(Call(tool=tool, arguments=arguments), timeout_s=5.0)
    return answer.text, answer.exit_code


async def test_shell_editor_and_snippets_see_one_tree(workspace: LiveWorkspace) -> None:
    assert await said(workspace, "edit", path="a.txt", old="two", new="three") == ("ok", 0)
    assert await said(workspace, "sh", command="cat a.txt") == ("one three\n", 0)
    assert await said(workspace, "count") == ("2\n", 0)
    assert (await workspace.capture())["a.txt"] == b"one three\n"


@pytest.mark.parametrize(
    ("path", "old", "text"),
    [
        ("b/c.txt", "x=1", "error: b/c.txt: 2 places read x=1"),
        ("a.txt", "four", "error: a.txt: 0 places read four"),
        ("gone.txt", "x", "error: gone.txt: no such file"),
        (
            "../etc/passwd",
            "x",
            "error: path='../etc/passwd': name a file beneath the workspace, such as notes/a.txt",
        ),
        ("a.txt", "", "error: edit: `old` is empty"),
    ],
)
async def test_an_edit_that_is_not_exact_changes_nothing_and_says_why(
    workspace: LiveWorkspace, path: str, old: str, text: str
) -> None:
    before = await workspace.digest()
    assert (await said(workspace, "edit", path=path, old=old, new="y"))[0] == text
    assert await workspace.digest() == before


async def test_a_fork_has_the_files_and_goes_its_own_way(workspace: LiveWorkspace) -> None:
    untouched = await workspace.fork(await workspace.snapshot())
    assert await untouched.digest() == await workspace.digest()
    await said(workspace, "sh", command="echo new >d.txt")
    fork = await workspace.fork(await workspace.snapshot())
    assert await fork.digest() == await workspace.digest()
    await fork.call(Call(tool="sh", arguments={"command": "rm d.txt"}), timeout_s=5.0)
    assert await fork.digest() != await workspace.digest()
    for each in (untouched, fork):
        await each.close()


async def test_a_tree_that_cannot_be_read_has_no_artefacts_and_breaks_nothing(
    workspace: LiveWorkspace,
) -> None:
    await said(workspace, "sh", command="p=.; for i in $(seq 80); do p=$p/a; done; mkdir -p $p")
    await workspace.digest()
    assert await workspace.capture() == {}
