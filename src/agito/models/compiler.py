"""C compiled for this machine at first use, with whatever compiler is available.

Libraries are cached in `$XDG_CACHE_HOME/agito` (`~/.cache/agito`), named after source, headers, compiler and
processor. `AGITO_ISA=avx512` or `avx2` limits the instruction set, to reproduce another machine's numbers on
this one.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from agito.errors import BadRecipe

FORWARD = Path(__file__).with_name("forward.c")  # the engine's forward pass
# No -ffast-math: sums keep their written order, so a row's numbers do not depend on its neighbours.
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-strict-aliasing", "-shared", "-fPIC")
_LIBRARIES = ("-lm", "-lpthread")
_LIMITS = {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}  # values of `AGITO_ISA`
_DEADLINE_S = 120.0
REMEDY = "sampling on the CPU takes 1.7 to 3 times as long without: apt install gcc, or pip install ziglang"


class NoCompiler(Exception):
    """No compiler is available or none works; the message quotes each."""


@cache
def library(source: Path) -> Path:
    """The shared library compiled from one file. Raises `NoCompiler`."""
    problems: list[str] = []
    for compiler in _compilers():
        try:
            return _made(compiler, source)
        except (NoCompiler, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            problems.append(f"{' '.join(compiler)}: {error}")
    raise NoCompiler("; ".join(problems) or "no C compiler")


def is_built(source: Path) -> bool:
    """Whether the library exists or can be built."""
    try:
        library(source)
    except NoCompiler:
        return False
    return True


def _made(compiler: list[str], source: Path) -> Path:
    """Builds the library unless it exists, and checks that it loads."""
    read = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    words = (*compiler, *_FLAGS, _instructions(), *_LIBRARIES)
    key = hashlib.sha256(b"\0".join([*read, *map(str.encode, words), _processor()])).hexdigest()[:16]
    found = _home() / f"{source.stem}-{key}.so"
    if not found.exists():
        _build(compiler, source, found)
    ctypes.CDLL(str(found))
    return found


def _compilers() -> list[list[str]]:
    """Available compilers: `CC`, the system's, then Zig from PyPI."""
    named = [words for name in (os.environ.get("CC", ""), "cc", "gcc", "clang") if (words := name.split())]
    found = [[program, *words[1:]] for words in named if (program := shutil.which(words[0]))]
    return [*found, [sys.executable, "-m", "ziglang", "cc"]] if find_spec("ziglang") else found


def _instructions() -> str:
    """Compiler flags for all instructions of the processor, or for those that `AGITO_ISA` allows. Raises
    `BadRecipe` for an unknown limit."""
    limit = os.environ.get("AGITO_ISA", "")
    if limit and limit not in _LIMITS:
        raise BadRecipe(f"AGITO_ISA={limit}: must be {' or '.join(_LIMITS)}, or not set")
    is_lower = limit and limit.encode() in _processor()  # otherwise the processor is below the limit
    return f"-march={_LIMITS[limit] if is_lower else 'native'}"


def _processor() -> bytes:
    """The processor properties that `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})).encode()


def _home() -> Path:
    """A cache folder that only this user can write to; a temporary one for this process if there is none."""
    with suppress(OSError, RuntimeError):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agito"
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = home.stat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(home, os.W_OK):
            return home
    own = Path(tempfile.mkdtemp(prefix="agito-native-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _build(compiler: list[str], source: Path, target: Path) -> None:
    """Builds atomically, since several processes may do so at once. Raises `NoCompiler` with the compiler's
    output."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory) / target.name
        command = [*compiler, *_FLAGS, _instructions(), "-o", str(made), str(source), *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        if done.returncode:
            raise NoCompiler(done.stderr.strip()[-600:] or f"exit code {done.returncode}")
        made.rename(target)
