"""Every Python block of the documentation is executed, every recipe is validated, every command is parsed."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
from array import array
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from tests.engine import fake_vllm
from tests.engine.fake_vllm import logprobs_after, salt_of
from tests.render.test_chat import CHATML, ModelTokenizer, write
from tests.test_docs import BLOCK, PAGES, ROOT, named
from tests.world.test_mcp import ELSEWHERE, NEEDS
from typer.core import TyperGroup
from typer.main import get_command

import agito
from agito.cli.app import app
from agito.errors import AnswerReachable
from agito.grading import taskfile
from agito.models import Decoder, DecoderConfig, LoraConfig, adapt, save
from agito.protocols import Environment, SandboxSpec
from agito.recipe import bundled, read
from agito.sampling.capture import Capture
from agito.sampling.vllm.spec import PROGRAM_VARIABLE
from agito.testing import ByteRenderer, EnvironmentContract, FakeEngine, FakeEnvironment, FakeSession
from agito.types import AttemptId, Call, Dialect, Sample, Task, span
from agito.weights.files import WeightFiles
from agito.worlds.sandbox import Pool

pytestmark = pytest.mark.anyio

Names: TypeAlias = dict[str, Any]
Runner: TypeAlias = Callable[[list[str], Path], Awaitable[None]]
ATTEMPT = AttemptId(group=0, slot=0)
SOURCE = Path(agito.__file__).parents[1]
REFERENCE = "the reference solution of this task"


async def execute(code: str, names: Names) -> Names:
    """Runs one block, which may use `await` outside of functions."""
    compiled = compile(code, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    found = eval(compiled, names)
    if inspect.iscoroutine(found):
        await found
    return names


def some_task() -> Task:
    return FakeEnvironment().task(split="train", index=0, seed=0)[0]


async def browser(blocks: list[str], place: Path) -> None:
    site = SimpleNamespace(state=lambda: "nothing was bought")
    names = await execute(
        blocks[0], {"task": some_task(), "Site": lambda *_: site, "attempt": ATTEMPT, "noise_seed": 0}
    )
    artifacts = await names["world"].seal()
    assert b"nothing was bought" in b"".join(artifacts.files.values())


async def components(blocks: list[str], place: Path) -> None:
    """The first block, a `Machine`, has a test of its own in `test_docs.py`."""
    names = await execute("\n".join(blocks), {})
    found = await names["engine"].call(Call(tool="search", arguments={"query": "bridge built"}), timeout_s=5)
    assert "The bridge at Orl" in found.text
    taken = Call(tool="take", arguments={"name": "a", "cents": 2})
    assert not (await names["service"].call(taken, timeout_s=5)).fault
    refused = await names["service"].call(taken, timeout_s=5)
    assert not refused.fault
    (captured,) = (await names["service"].capture()).values()
    wanted = names["image"](
        "CREATE TABLE accounts (name TEXT PRIMARY KEY, cents INTEGER CHECK (cents >= 0));",
        {"accounts": [("a", 1)]},
    )
    assert not names["differences"](names["dump"](wanted), names["dump"](captured))


async def grade(blocks: list[str], place: Path) -> None:
    (place / "distinct.py").write_text(blocks[0])
    task, _ = taskfile.load(place / "distinct.py")
    assert task.entry == "solution.py:solve"
    names = await execute(blocks[1], {})
    async with await Pool.open(warm=0) as pool:
        box = await pool.start(SandboxSpec())
        await names["begin"](box, {"a.py": b"x = 1\n"}, REFERENCE)
        with pytest.raises(AnswerReachable):
            await names["begin"](box, {"a.py": f"# {REFERENCE}\n".encode()}, REFERENCE)


async def own_environment(blocks: list[str], place: Path) -> None:
    """The environment itself has a test of its own in `test_docs.py`; here, the test that the page gives."""
    (place / "hidden_number.py").write_text("\n".join(blocks[:-1]))
    names = await execute(blocks[-1], {"__file__": str(place / "test_hidden_number.py"), "__name__": "page"})
    suite: EnvironmentContract = names["TestHiddenNumber"]()
    environment: Environment = await suite.make()
    assert environment.name == "hidden_number" and suite.renderers()


async def own_harness(blocks: list[str], place: Path) -> None:
    names = await execute("\n".join(blocks), {})
    assert names["MyHarness"].roles == ("solo",)
    assert isinstance(await names["TestMine"]().make(), names["MyHarness"])
    renderer, task = ByteRenderer(Dialect.COMPACT), some_task()
    capture = Capture(FakeEngine(vocab_size=renderer.vocab_size), seed=0, stop_ids=renderer.stop_ids)
    capture.extend(renderer.opening(task))
    await names["one_turn"](capture, renderer, FakeSession(tools=task.tools))


async def mcp(blocks: list[str], place: Path) -> None:
    if not ELSEWHERE:
        pytest.skip(NEEDS)
    code = blocks[0].replace("/srv/servers", ELSEWHERE)
    assert code != blocks[0]
    names = await execute(code, {"task": some_task(), "attempt": ATTEMPT, "noise_seed": 0})
    assert "read_file" in {tool.name for tool in names["tools"]}


async def models(blocks: list[str], place: Path) -> None:
    folder = write(place / "models/smollm2-135m", "byte level", CHATML)
    save(Decoder(tiny(ModelTokenizer.read(folder).largest_id + 1), seed=1), folder)
    names = await execute("\n".join(blocks[:2]), {})
    assert (place / "my-adapter/adapter_model.safetensors").is_file()
    assert names["renderer"].vocab_size == names["model"].config.vocab_size
    ids = torch.tensor([3, 1, 4, 1, 5])
    with torch.no_grad():
        logp = names["model"](ids, [5]).log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0].tolist()
    sample = Sample(
        attempt=ATTEMPT,
        segment=0,
        ids=array("i", ids.tolist()),
        logprobs=array("f", [float("nan"), *logp]),
        trainable=bytes([0, 1, 1, 1, 1]),
        advantages=array("f", [0.0, 1.0, 1.0, 1.0, 1.0]),
        versions=span(0, 5),
        temperature=1.0,
    )
    names = await execute(blocks[2], names | {"samples": [sample]})
    assert names["trainer"].version == 1


def tiny(vocab_size: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        family="llama",
        qk_norm=False,
    )


async def redteam(blocks: list[str], place: Path) -> None:
    names = await execute(blocks[0], {})
    assert callable(names["script"])
    await names["environment"].aclose()


async def sandbox(blocks: list[str], place: Path) -> None:
    names = await execute(blocks[0], {})
    assert names["result"].output == b"1\n"
    assert names["files"]["notes/a.txt"] == b"value: 7\n"
    for end in (names["link"], names["listener"]):
        end.close()


async def vllm(blocks: list[str], place: Path) -> None:
    """Against a server that speaks vLLM's protocol."""
    names = await execute(blocks[0], {})
    text, lora = array("i", [3, 1, 4, 1, 5]), LoraConfig(rank=4, alpha=8)
    model = adapt(Decoder(tiny(64), seed=1), lora, seed=0)
    path = WeightFiles(place / "known", "policy").push_adapter(1, model, lora, base=place)
    logprobs = [logprobs_after(salt_of(path), text[:at])[token] for at, token in enumerate(text)]
    learner = SimpleNamespace(text=text, model=model, logprobs=lambda: array("f", logprobs[1:]))
    (place / "faults").mkdir()
    program = place / "vllm"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} {fake_vllm.__file__} "$@"\n')
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(PROGRAM_VARIABLE, str(program))
        await names["sample_and_publish"](place, lora, WeightFiles(place / "pushed", "policy"), learner)


async def tracking(blocks: list[str], place: Path) -> None:
    names = await execute(blocks[0], {})
    tracker = names["MyTracker"]()
    tracker.open(SimpleNamespace(folder=place))
    tracker.log([SimpleNamespace(phase="rl", step=1, values={"reward/mean": 0.5})])
    assert "rl 1 {'reward/mean': 0.5}" in (place / "points.txt").read_text()
    tracker.file.close()


RUNNERS: Mapping[str, Runner] = {
    "docs/browser.md": browser,
    "docs/components.md": components,
    "docs/howto/grade.md": grade,
    "docs/howto/own-environment.md": own_environment,
    "docs/howto/own-harness.md": own_harness,
    "docs/mcp.md": mcp,
    "docs/models.md": models,
    "docs/redteam.md": redteam,
    "docs/sandbox.md": sandbox,
    "docs/tracking.md": tracking,
    "docs/vllm.md": vllm,
}
# pages whose blocks another file executes as they stand
ELSEWHERE_RUN = {
    "docs/api.md": "tests/cli/test_api.py",
    "docs/howto/effort.md": "tests/test_effort.py",
    "docs/howto/own-agent.md": "tests/gateway/test_serving.py",
    "docs/howto/own-prompts.md": "tests/cli/test_prompts.py",
}


def blocks_of(page: Path, language: str) -> list[str]:
    return [code for each, code in BLOCK.findall(page.read_text()) if each == language]


PYTHON = [page for page in PAGES if blocks_of(page, "python") and named(page) not in ELSEWHERE_RUN]


@pytest.mark.parametrize("page", PYTHON, ids=named)
async def test_the_python_of_every_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(page) in RUNNERS, f"write a runner for {named(page)}"
    await RUNNERS[named(page)](blocks_of(page, "python"), tmp_path)


def test_no_runner_is_for_a_page_without_python() -> None:
    assert {named(page) for page in PYTHON} == set(RUNNERS)
    for page, test in ELSEWHERE_RUN.items():
        assert blocks_of(ROOT / page, "python") and Path(page).name in (ROOT / test).read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "toml")], ids=named)
def test_every_toml_block_is_a_recipe_or_a_part_of_one(page: Path, tmp_path: Path) -> None:
    for number, code in enumerate(blocks_of(page, "toml")):
        path = tmp_path / f"block{number}.toml"
        path.write_text(code)
        read(str(path), ())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "json")], ids=named)
def test_every_json_block_is_json(page: Path) -> None:
    for code in blocks_of(page, "json"):
        json.loads(code)


COMMAND = re.compile(r"^(?:\.venv/bin/)?agito (.+)$")
COMMANDS = sorted(
    {
        (named(page), found[1])
        for page in PAGES
        for code in [code for each, code in BLOCK.findall(page.read_text()) if each in ("", "bash")]
        for line in code.splitlines()
        if (found := COMMAND.match(line.strip()))
    }
)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_line_parses_and_every_override_is_a_key(page: str, line: str) -> None:
    command, words = get_command(app), shlex.split(line, comments=True)
    context = command.make_context("agito", list(words))
    while isinstance(command, TyperGroup):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: there is no command {name}"
        command = found
    given = command.make_context(words[0] if words else "", list(words), parent=context).params
    overrides = tuple(given.get("overrides") or given.get("sets") or ())
    assert overrides or "--set" not in words
    recipe = next((word for word in words if word in bundled()), "smoke")
    read(recipe, overrides)
