"""Whatever the documentation names exists."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import agito
from agito.cli.recipe_keys import keys_of, tables
from agito.envs import load
from agito.errors import InvalidArguments
from agito.protocols import Environment, Renderer
from agito.recipe import bundled, read
from agito.render import CompactRenderer, learn
from agito.render.vocabulary import END, END_THINK, THINK
from agito.testing import ByteRenderer, EnvironmentContract
from agito.types import Call, Dialect
from agito.worlds.component import spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"`make ([a-z][\w-]*)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [(a or b).split("#")[0] for a, b in LINK.findall(page.read_text())]
    broken = [
        t
        for t in targets
        if t and "://" not in t and not t.startswith("mailto:") and not (page.parent / t).exists()
    ]
    assert not broken, f"{named(page)} links to {broken}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_code_block_parses_and_imports_only_what_exists(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text()):
        if language == "toml":
            tomllib.loads(code)
        if language == "python":
            for node in ast.walk(ast.parse(dedent(code))):  # some blocks are methods
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "agito":
                    assert_importable(node.module or "", [alias.name for alias in node.names])
                elif isinstance(node, ast.Import):
                    for module in [each.name for each in node.names if each.name.split(".")[0] == "agito"]:
                        assert_importable(module, [])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in MAKE.findall(page.read_text()):
        known = (
            re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
            or (ROOT / f"benchmarks/{target.removeprefix('bench-')}.py").exists()
        )
        assert known or target == "bench-NAME", f"make {target} is not in the Makefile"


def assert_importable(module: str, names: list[str]) -> None:
    """By parsing the source, so that a page about torch does not load it."""
    path = ROOT / "src" / Path(*module.split("."))
    source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
    assert source is not None, f"{module} does not exist"
    bound = set(_bound(ast.parse(source.read_text())))
    missing = [
        name
        for name in names
        if name not in bound and not (path / f"{name}.py").exists() and not (path / name).is_dir()
    ]
    assert not missing, f"{module} has no {missing}"


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that a module binds; with a `__getattr__`, also those that `__all__` promises."""
    for node in ast.walk(ast.Module(body=[_without_bodies(each) for each in tree.body], type_ignores=[])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield from ast.literal_eval(node.value)


def _without_bodies(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ast.ClassDef(name=node.name, bases=[], keywords=[], body=[], decorator_list=[])
    return node


@pytest.mark.parametrize(
    ("module", "name"), [("agito.api", "notebook"), ("agito.types", "frozen"), ("agito.nosuch", "x")]
)
def test_a_word_that_only_stands_in_a_module_is_not_importable_from_it(module: str, name: str) -> None:
    with pytest.raises(AssertionError, match=r"has no|does not exist"):
        assert_importable(module, [name])


def test_the_environment_that_the_guide_builds_keeps_the_contract(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "own-environment.md").read_text()
    *pieces, _ = [code for language, code in BLOCK.findall(page) if language == "python"]
    (tmp_path / "hidden_number.py").write_text("\n".join(pieces))

    class Suite(EnvironmentContract):
        async def make(self) -> Environment:
            return load(f"{tmp_path}/hidden_number.py:HiddenNumber")

        def renderers(self) -> Sequence[Renderer]:
            return [ByteRenderer(dialect) for dialect in Dialect]

    assert Suite().violations() == {}


def test_the_page_of_every_recipe_key_is_what_the_classes_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "recipe_keys.py")]
    written = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    ).stdout
    assert (ROOT / "docs" / "recipes.md").read_text() == written, (
        "python scripts/recipe_keys.py > docs/recipes.md"
    )


def test_every_recipe_key_says_what_it_is_for() -> None:
    assert not [key.name for table in tables() for key in table.keys if not key.about]
    assert len({key.name for table in tables() for key in table.keys}) > 80
    assert {key.name for name in bundled() for key in keys_of(read(name))} <= {
        key.name for table in tables() for key in table.keys
    }


def test_the_guide_and_the_template_teach_one_and_the_same_environment() -> None:
    page = (ROOT / "docs" / "howto" / "own-environment.md").read_text()
    *pieces, test = [code.strip() for language, code in BLOCK.findall(page) if language == "python"]
    template = ROOT / "src" / "agito" / "envs" / "template"
    for name, found in (("environment.txt", "".join(pieces)), ("test.txt", test)):
        wanted = (
            (template / name).read_text().replace("NAME", "hidden_number").replace("CLASS", "HiddenNumber")
        )
        assert "".join(found.split()) == "".join(wanted.split()), name


def test_no_page_writes_session_or_control_by_hand() -> None:
    by_hand = re.compile(r"class \w+.*:\n(?:.*\n)*?    (?:async )?def (?:act|seal|snapshot)\(")
    assert not [
        named(page)
        for page in PAGES
        if any(by_hand.search(code) for language, code in BLOCK.findall(page.read_text()))
    ]


def test_the_compact_dialect_reads_every_line_as_its_page_says() -> None:
    pay = spec("pay", "Pays.", {"name": "string", "cents": "integer", "note": "string"})
    tools = (spec("sh", "Runs.", ["command"]), pay, spec("submit", "Ends.", ["answer"]))
    rows = re.findall(
        r"^\| `([^`]+)` \| `(\w+)\((.*)\)` \|$", (ROOT / "docs" / "dialects.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 7
    renderer = CompactRenderer(learn([*(row[0] for row in rows)] * 5, size=400))
    vocabulary = renderer.vocabulary
    for line, tool, said in rows:
        thought, has_thought, words = line.removeprefix("<think>").partition("</think>")
        ids = (
            [vocabulary.id(THINK), *vocabulary.encode(thought), vocabulary.id(END_THINK)]
            if has_thought
            else []
        )
        ids += [*vocabulary.encode(words if has_thought else line), vocabulary.id(END)]
        (call,) = renderer.parse(ids, tools)
        assert (call.tool, dict(call.arguments)) == (tool, eval(f"dict({said})"))


@pytest.mark.parametrize("name", agito.__all__)
def test_the_page_of_the_python_interface_gives_the_signatures_as_they_are(name: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    parameters = [*inspect.signature(getattr(agito, name)).parameters.values()]
    words = [
        each.name if each.default is each.empty else f"{each.name}={each.default!r}".replace("'", '"')
        for each in parameters
    ]
    first = next(at for at, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY)
    assert f"| `agito.{name}({', '.join([*words[:first], '*', *words[first:]])})` |" in page


@pytest.mark.anyio
async def test_the_machine_on_the_page_of_components_pays_refuses_and_forks() -> None:
    section = (ROOT / "docs" / "components.md").read_text().partition("## Machine")[2]
    names: dict[str, Any] = {}
    exec(next(code for language, code in BLOCK.findall(section) if language == "python"), names)
    till = names["till"]
    paid = Call(tool="pay", arguments={"name": "ann", "cents": 200})
    twin = await till.fork(await till.snapshot())
    assert (await till.call(paid, timeout_s=5)).text == "paid"
    assert (await till.call(Call(tool="left", arguments={}), timeout_s=5)).text == "300"
    with pytest.raises(InvalidArguments, match="cents must be 1 to 300"):
        await till.call(Call(tool="pay", arguments={"name": "ann", "cents": 301}), timeout_s=5)
    assert (await twin.call(Call(tool="left", arguments={}), timeout_s=5)).text == "500"
    assert await till.capture() == {"till": b"{'cents': 300, 'paid': ['ann']}"}
