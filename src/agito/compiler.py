"""C for the machine at hand, built at first use by whatever compiler there is.

Libraries lie in `$XDG_CACHE_HOME/agito` (`~/.cache/agito`), named after their source, the compiler and the processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FORWARD = Path(__file__).with_name("models") / "forward.c"  # the engine's forward pass
# No -ffast-math: sums keep the order in which they are written, so that a row's numbers do not depend on its neighbours.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
_DEADLINE_S = 120.0
REMEDY = "sampling on the CPU is two to three times slower without: apt install gcc, or pip install ziglang"


class NoCompiler(Exception):
    """There is no compiler, or it failed: what it said."""


@cache
def library(source: Path) -> Path:
    """The shared library made of one file. Raises `NoCompiler`."""
    compiler = _compiler()
    key = hashlib.sha256(b"\0".join([source.read_bytes(), *map(str.encode, (*compiler, *_FLAGS)), _processor()])).hexdigest()[:16]
    found = _home() / f"{source.stem}-{key}.so"
    if not found.exists():
        _build(compiler, source, found)
    return found


def _compiler() -> list[str]:
    """`CC`, a compiler of the system, or Zig's from PyPI."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if words := name.split():
            program = shutil.which(words[0])
            if program:
                return [program, *words[1:]]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompiler("no C compiler")


def _processor() -> bytes:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})).encode()


def _home() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agito"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="agito-native-"))
    return home if os.access(home, os.W_OK) else Path(tempfile.mkdtemp(prefix="agito-native-"))


def _build(compiler: list[str], source: Path, target: Path) -> None:
    """Whole or not at all: several processes may do it at once."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory) / target.name
        try:
            done = subprocess.run(
                [*compiler, *_FLAGS, "-o", str(made), str(source)], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoCompiler(f"{' '.join(compiler)}: {error}") from None
        if done.returncode:
            raise NoCompiler(f"{' '.join(compiler)}: {done.stderr.strip()[-600:] or f'exit code {done.returncode}'}")
        made.rename(target)
