"""What a guest in a sandbox finds of the machine: the programs that its command names, copies of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType

from agito.errors import BadHarness
from agito.harness.foreign.warm import warm_python
from agito.protocols import WarmPython, seen_at

CALL = Path(__file__).with_name("call.py")  # what calls a function
_MOST_BYTES = 1 << 24  # of all copied files
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_PROGRAMS = ("bin", "node_modules/.bin")
_OF_INTERPRETERS = ("pyvenv.cfg", "bin/python3", "bin/node")
_LIBRARIES = ("lib/python3*", "lib/node_modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`argv`: as it is inside, in a working directory with copies of `files`, whose keys are relative."""

    argv: tuple[str, ...]
    shown: tuple[str, ...]  # folders of the machine, read-only
    files: Mapping[str, Path]
    path: str  # PATH inside
    python: WarmPython | None  # what is kept warm for it

    def contents(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self.files.items()}

    def executable(self) -> tuple[str, ...]:
        return tuple(name for name, path in self.files.items() if os.access(path, os.X_OK))


def layout(
    argv: Sequence[str],
    folder: Path,
    *,
    files: Sequence[str],
    shown: Sequence[str],
    warm: bool,
    env: Mapping[str, str] = MappingProxyType({}),
) -> Layout:
    """Of a command whose program is a path. `files`: of `folder`, beside those that the command names.
    `warm`: whether an interpreter is to be kept warm for it; it imports with the variables `env`.

    Raises `BadHarness` for what is not there, and for a word that names a file outside of all of these.
    """
    roots = [*(_folder(each, folder) for each in shown), *_roots_of(Path(argv[0]))]
    copied = dict(found for each in files for found in _files(each, folder))
    words = [_inside(Path(argv[0]), roots) or argv[0]]
    for word in argv[1:]:
        path = folder / word
        place = None if not path.is_file() else _inside(path, roots)
        if path == CALL:
            place = f".{CALL.name}"
            copied[place] = CALL
        elif path.is_file() and place is None:
            copied |= dict(_files(word, folder))
            place = os.path.relpath(path, folder)
        words.append(place or word)
    if sum(path.stat().st_size for path in copied.values()) > _MOST_BYTES:
        raise BadHarness(
            f"harness.files: more than {_MOST_BYTES >> 20} MiB; show a folder by harness.shown instead"
        )
    programs = [
        f"{seen_at(os.path.realpath(root))}/{name}"
        for root in roots
        for name in _PROGRAMS
        if (root / name).is_dir()
    ]
    programs += [seen_at(os.path.realpath(root)) for root in roots if root.name == "bin"]
    path = ":".join([*programs, _SYSTEM_PATH])
    return Layout(
        argv=tuple(words),
        shown=tuple(os.path.realpath(root) for root in roots),
        files=copied,
        path=path,
        python=warm_python(
            argv,
            [each for name, each in copied.items() if name.endswith(".py")],
            _beside(words[1], copied) if words[1] in copied else _in(folder / argv[1]),
            lambda each: _inside(each, roots),
            {**env, "PATH": path},
        )
        if warm and argv[1:]
        else None,
    )


def which(program: str, folder: Path, shown: Sequence[str]) -> str | None:
    """A program of `folder`, of one of the folders shown, or of this machine."""
    places = [str(folder / each / name) for each in shown for name in _PROGRAMS]
    found = shutil.which(program, path=":".join(places)) if places else None
    return found or shutil.which(program) or (str(folder / program) if (folder / program).is_file() else None)


def _beside(script: str, copied: Iterable[str]) -> Iterator[PurePath]:
    """The copies by their path from the script's folder."""
    folder = PurePath(script).parent
    yield from (
        PurePath(name).relative_to(folder) for name in copied if PurePath(name).is_relative_to(folder)
    )


def _in(script: Path) -> Iterator[PurePath]:
    """The modules in the folder of a script that is shown where it is."""
    for pattern in ("*.py", "*/__init__.py"):
        yield from (each.relative_to(script.parent) for each in script.parent.glob(pattern))


def _roots_of(program: Path) -> Iterator[Path]:
    """The folders that a program needs beside the system's: those of an interpreter, and of a virtual
    environment with its interpreter. Where more than that lies beside them, as in `~/.local`, only programs
    and libraries: a home folder holds keys.
    """
    for path in (program.absolute(), Path(os.path.realpath(program))):
        if path.parent.name != "bin" or path.parts[1] in ("usr", "bin", "sbin"):
            continue
        root = path.parent.parent
        if any((root / each).exists() for each in _OF_INTERPRETERS) and not _holds_more(root):
            yield root
        else:
            yield from (path.parent, *(found for each in _LIBRARIES for found in sorted(root.glob(each))))


def _holds_more(root: Path) -> bool:
    home = Path.home()
    return home.is_relative_to(root) or root == home / ".local"


def _inside(path: Path, roots: Sequence[Path]) -> str | None:
    """Where a path is found inside, if it lies in one of `roots`; a link in it is followed there."""
    absolute = Path(os.path.normpath(path.absolute()))
    for root in roots:
        for each in (root, Path(os.path.realpath(root))):
            if absolute.is_relative_to(each):
                return os.path.normpath(f"{seen_at(os.path.realpath(root))}/{absolute.relative_to(each)}")
    return None


def _folder(name: str, folder: Path) -> Path:
    path = (folder / Path(name).expanduser()).absolute()
    if not path.is_dir() or path == Path("/"):
        raise BadHarness(f"harness.shown: there is no folder {path}")
    return path


def _files(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The file, or everything in the folder, by its path in `folder`."""
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(root) or path == root:
        raise BadHarness(
            f"{name}: it is not in {root}, so a guest in a sandbox does not see it; name a folder with it in "
            "harness.shown"
        )
    if not path.exists():
        raise BadHarness(f"harness.files: there is no {path}")
    found = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
    for each in found:
        if Path(os.path.realpath(each)).is_relative_to(root):  # a link out of it shows nothing
            yield str(each.relative_to(root)), each
