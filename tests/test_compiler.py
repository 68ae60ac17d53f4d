"""C that is built at first use."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from agito.errors import BadRecipe
from agito.models.compiler import FORWARD, NoCompiler, library

build = library.__wrapped__  # without its memory
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler (apt install gcc)"
)


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
def test_a_header_beside_it_belongs_to_a_source(home: Path) -> None:
    path = source(home, '#include "two.h"\nint twice(int x) { return TWO * x; }')
    (home / "two.h").write_text("#define TWO 2")
    first = build(path)
    (home / "two.h").write_text("#define TWO 3")
    second = build(path)
    assert [ctypes.CDLL(str(found)).twice(7) for found in (first, second)] == [14, 21]


@needs_compiler
def test_a_limit_of_instructions_makes_another_library_and_an_unknown_one_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(
        home, "#ifdef __AVX512F__\nint wide(void) { return 1; }\n#else\nint wide(void) { return 0; }\n#endif"
    )
    monkeypatch.setenv("AGITO_ISA", "avx2")
    assert ctypes.CDLL(str(build(path))).wide() == 0
    for limit in ("avx512", ""):  # above what this processor has, it limits nothing
        monkeypatch.setenv("AGITO_ISA", limit)
        assert ctypes.CDLL(str(build(path))).wide() == int("avx512f" in Path("/proc/cpuinfo").read_text())
    monkeypatch.setenv("AGITO_ISA", "avx1024")
    with pytest.raises(BadRecipe, match="AGITO_ISA=avx1024"):
        build(path)


@needs_compiler
def test_what_the_compiler_has_against_it_is_said(home: Path) -> None:
    with pytest.raises(NoCompiler, match="error"):
        build(source(home, "int twice(int x) { return 2 * y; }"))


def test_without_a_compiler_there_is_an_error_that_the_engine_can_heed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
