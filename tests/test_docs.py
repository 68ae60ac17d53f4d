"""What the documentation says is there is there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agito.protocols import Renderer
from agito.testing import ByteRenderer, EnvironmentContract
from agito.types import Dialect

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"`make ([a-z][\w-]*)")
IMPORTED = re.compile(r"^\s*from (agito[\w.]*) import ([\w, ]+)$|^\s*import (agito[\w.]*)$", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [(a or b).split("#")[0] for a, b in LINK.findall(page.read_text())]
    broken = [t for t in targets if t and "://" not in t and not t.startswith("mailto:") and not (page.parent / t).exists()]
    assert not broken, f"{named(page)} links to {broken}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_code_block_parses_and_imports_only_what_exists(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text()):
        if language == "toml":
            tomllib.loads(code)
        if language == "python":
            ast.parse(code)
            for module, names, alone in IMPORTED.findall(code):
                assert_importable(module or alone, [name.strip() for name in names.split(",")] if names else [])


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
    """By reading the source, so that a page about torch does not load it."""
    path = ROOT / "src" / Path(*module.split("."))
    source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
    assert source is not None, f"{module} does not exist"
    text = source.read_text()
    missing = [
        name for name in names if not re.search(rf"\b{re.escape(name.split(' ')[0])}\b", text) and not (path / f"{name}.py").exists()
    ]
    assert not missing, f"{module} has no {missing}"


def test_the_environment_that_the_guide_builds_keeps_the_contract() -> None:
    page = ROOT / "docs" / "howto" / "own-environment.md"
    code = "\n\n".join(code for language, code in BLOCK.findall(page.read_text()) if language == "python")
    names: dict[str, Any] = {"__name__": "own_environment"}
    exec(compile(code, str(page), "exec"), names)
    suite: type[EnvironmentContract] = names["TestNumber"]

    class WithDialects(suite):
        def renderers(self) -> Sequence[Renderer]:
            return [ByteRenderer(dialect) for dialect in Dialect]

    assert WithDialects().violations() == {}
