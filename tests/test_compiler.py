"""C that is built at first use."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from agito.models.compiler import FORWARD, NoCompiler, library

build = library.__wrapped__  # without its memory
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler (apt install gcc)")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def source(home: Path, text: str) -> Path:
    path = home / "twice.c"
    path.write_text(text)
    return path


@needs_compiler
def test_a_source_is_built_once_and_again_when_it_changes(home: Path) -> None:
    path = source(home, "int twice(int x) { return 2 * x; }")
    first = build(path)
    assert ctypes.CDLL(str(first)).twice(21) == 42
    was = first.stat().st_mtime_ns
    assert build(path) == first
    assert first.stat().st_mtime_ns == was
    path.write_text("int twice(int x) { return x + x; }")
    assert build(path) != first
    assert not [left for left in first.parent.iterdir() if left.suffix != ".so"]


@needs_compiler
def test_what_the_compiler_has_against_it_is_said(home: Path) -> None:
    with pytest.raises(NoCompiler, match="error"):
        build(source(home, "int twice(int x) { return 2 * y; }"))


def test_without_a_compiler_there_is_an_error_that_the_engine_can_heed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NoCompiler, match="no C compiler"):
        build(FORWARD)


@needs_compiler
def test_a_library_that_does_not_load_is_no_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = next(found for name in ("cc", "gcc", "clang") if (found := shutil.which(name)))
    monkeypatch.setenv("CC", compiler)
    path = source(home, "int twice(int x) { return 2 * x; }")
    elsewhere = home / "elsewhere" / "agito" / build(path).name
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("PATH", str(home))  # no other compiler
    with pytest.raises(NoCompiler, match=compiler):
        build(path)


@needs_compiler
def test_a_home_that_cannot_be_written_does_no_harm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cache").write_text("a file where a folder is wanted")
    assert build(source(home, "int twice(int x) { return 2 * x; }")).exists()
