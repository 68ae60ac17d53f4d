"""The Python tool in a real sandbox: which state lasts, which does not, and that nothing gets out."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from agito.errors import InvalidArguments
from agito.types import AttemptId, Budget, Call, Dialect, Fault, Task
from agito.worlds.python import PYTHON, PythonTool
from agito.worlds.sandbox import Pool
from agito.worlds.world import SUBMIT, World

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def pool() -> AsyncGenerator[Pool]:
    opened = await Pool.open(warm=1)
    yield opened
    await opened.aclose()


async def run(tool: PythonTool, code: str) -> str:
    return (await tool.call(Call(tool="python", arguments={"code": code}), timeout_s=10.0)).text


async def test_values_imports_functions_and_classes_last_from_one_snippet_to_the_next(pool: Pool) -> None:
    tool = PythonTool(pool)
    await run(tool, "import math as m\nfrom collections import Counter\nx = [1, 2]\ny = x\nscale = 3")
    await run(tool, "def area(r, k=scale):\n    return m.pi * r * k\nf = lambda a: a + scale")
    await run(tool, "class P:\n    def __init__(self, v):\n        self.v = v\np = P(x)")
    await run(tool, "x.append(3)\nscale = 10")
    assert (
        await run(tool, "y, p.v, p.v is x, f(1), Counter('aab')['a']")
        == "([1, 2, 3], [1, 2, 3], True, 11, 2)\n"
    )
    assert await run(tool, "del p\nround(area(1, 3), 2)") == "9.42\n"
    assert "NameError" in await run(tool, "p")
    await tool.close()


async def test_what_cannot_be_kept_is_named_and_a_failing_snippet_keeps_what_it_did(pool: Pool) -> None:
    tool = PythonTool(pool)
    assert await run(tool, "g = (i for i in range(3))\nn = next(g)") == "(not kept: g)\n"
    failed = await tool.call(Call(tool="python", arguments={"code": "n = 5\n1 / 0"}), timeout_s=10.0)
    assert (
        failed.exit_code == 1
        and failed.text.endswith("ZeroDivisionError: division by zero\n")
        and "line 2" in failed.text
    )
    assert await run(tool, "n") == "5\n"
    assert "SyntaxError" in await run(tool, "def")
    await tool.close()


async def test_fresh_snippets_know_nothing_of_one_another_but_share_files(pool: Pool) -> None:
    tool = PythonTool(pool, keeps_state=False, files={"data.txt": "7"})
    await run(tool, "x = 1\nopen('more.txt', 'w').write(open('data.txt').read())")
    assert "NameError" in await run(tool, "x")
    assert await tool.capture() == {"data.txt": b"7", "more.txt": b"7"}
    await tool.close()


async def test_a_fork_goes_on_with_the_state_and_changes_nothing_in_the_original(pool: Pool) -> None:
    tool = PythonTool(pool)
    await run(tool, "x = 1")
    fork = await tool.fork(await tool.snapshot())
    assert await fork.digest() == await tool.digest()
    assert await run(fork, "x += 1; x") == "2\n" == (await run(fork, "x"))
    assert await run(tool, "x") == "1\n"
    assert await fork.digest() != await tool.digest()
    await fork.close()
    await tool.close()


async def test_endless_and_greedy_snippets_are_events_and_the_state_survives_them(pool: Pool) -> None:
    tool = PythonTool(pool)
    await run(tool, "x = 1")
    endless = await tool.call(Call(tool="python", arguments={"code": "while True: pass"}), timeout_s=0.3)
    assert endless.fault is Fault.TIMEOUT and "timeout" in endless.text
    greedy = await tool.call(Call(tool="python", arguments={"code": "b = bytearray(1 << 34)"}), timeout_s=5.0)
    assert "MemoryError" in greedy.text or greedy.fault is not None
    assert await run(tool, "x") == "1\n"
    with pytest.raises(InvalidArguments, match="half a character"):
        await run(tool, "'\ud800'")
    await tool.close()


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.makedirs('d/' * 70); open('d/' * 70 + 'f', 'w').close()",
        "open('big', 'wb').write(bytes(5_000_000))",
        "import os\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)\nopen('f', 'w').close()",
    ],
    ids=["70 nested folders", "5 MB", "a path over 4,096 bytes"],
)
async def test_what_cannot_be_captured_is_no_artefact_and_breaks_nothing(pool: Pool, code: str) -> None:
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt={Dialect.COMPACT: "x"},
        tools=(PYTHON, SUBMIT),
    )
    world = World(task, [PythonTool(pool)], AttemptId(group=0, slot=0), noise_seed=0)
    event = await world.act(
        Call(tool="python", arguments={"code": code}), Budget(turns=9, calls=9, tokens=99)
    )
    assert (event.exit_code, event.fault) == (0, None)
    assert await world.digest()
    assert (await world.seal()).files == {}
