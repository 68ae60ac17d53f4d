"""Somebody else's code by name: classes and functions as `path.py:Name` from anywhere, prompts with a reward
function, and what Python code hands in.
"""

from __future__ import annotations

import ast
import copy
import importlib
import os
import re
import sys
import sysconfig
import tomllib
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from agito.config import meant
from agito.errors import AgitoError, BadEnvironment, NotFound

_REWARD = ",reward="  # what tells a prompt set's name from any other
_DATA = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")  # what prompts are read from, beside folders
_RECIPES = Path(__file__).parent / "recipes"
_OURS = Path(__file__).parent
_INSTALLED = tuple(
    {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_OBJECT = "object:"  # begins the name of what only the process that was given it knows
_live: dict[str, Any] = {}  # functions, classes and objects that this process was given, by name
_made_here: set[type] = set()  # classes whose instances no other process can make without arguments
_asked: dict[str, str] = {}  # the environment that a file was read, or a module imported, for
reads_file: ContextVar[str] = ContextVar("reads_file", default="")  # whose top level is being run


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts and a reward function as the name of an environment:
    `tasks.jsonl,reward=my_reward.py:reward,turns=4`.
    """

    data: str  # JSONL, JSON, Parquet, or a folder as the `datasets` library or a model hub has it
    reward: str  # path.py:function
    tools: str = ""  # path.py:first+second
    heldout: str = ""  # data of its own for the held-out split; else a part of `data`
    holdout: float = 0.1  # that part, and as much again for validation
    turns: int = 0  # 0: one; with tools eight
    tokens: int = 256  # of one turn
    chance: float = -1.0  # what an answer that is always the same may earn; below 0: nothing is declared

    @classmethod
    def parse(cls, name: str) -> PromptSet | None:
        """None for a name that is no prompt set's. Raises `BadEnvironment`."""
        if _REWARD not in name and not _is_meant_as_prompts(name):
            return None
        data, *options = name.split(",")
        kinds: dict[str, Callable[[str], str | int | float]] = {field.name: str for field in fields(cls)}
        kinds |= {"turns": int, "tokens": int, "holdout": float, "chance": float}
        found: dict[str, Any] = {"data": data}
        for option in options:
            key, equals, text = option.partition("=")
            if not equals or key not in kinds or key in found:
                known = tuple(key for key in kinds if key != "data")
                there = f"there are {', '.join(known)}{meant(key, known)}"
                raise BadEnvironment(f"prompts {name!r}: {option!r} is no option, or comes twice; {there}")
            try:
                found[key] = kinds[key](text)
            except ValueError:
                raise BadEnvironment(f"prompts {name!r}: {key}={text}: need a number") from None
        made = cls(reward=found.pop("reward", ""), **found)
        made.check()
        return made

    def check(self) -> None:
        """Raises `BadEnvironment`."""
        if any("," in each for each in (self.data, self.reward, self.tools, self.heldout)):
            raise BadEnvironment(
                f"prompts {str(self)!r}: a path with a comma cannot stand in this name; rename the file"
            )
        if not self.data or not self.reward:
            raise BadEnvironment(f"prompts {str(self)!r}: write DATA,reward=FILE.py:FUNCTION")
        if not 0 < self.holdout < 0.5:
            raise BadEnvironment(f"holdout={self.holdout:g}: a share above 0 and below 0.5")
        if self.turns < 0 or self.tokens < 1 or self.chance >= 1:
            said = f"turns={self.turns} tokens={self.tokens} chance={self.chance:g}"
            raise BadEnvironment(f"{said}: turns and tokens from 1 on, chance below 1")

    def __str__(self) -> str:
        given = [
            (field.name, getattr(self, field.name))
            for field in fields(self)
            if field.name not in ("data", "reward")
        ]
        default = {field.name: field.default for field in fields(self)}
        return f"{self.data}{_REWARD}{self.reward}" + "".join(
            f",{key}={value}" for key, value in given if value != default[key]
        )

    def with_paths(self, change: Callable[[str], str]) -> PromptSet:
        """Every path in it changed, such as made absolute."""
        files = {name: change(path) if (path := getattr(self, name)) else "" for name in ("data", "heldout")}
        tools = "+".join(_with_path(each, change) for each in self.tools.split("+"))
        return replace(self, **files, reward=_with_path(self.reward, change), tools=tools)

    @property
    def label(self) -> str:
        """As a part of a run's name."""
        return Path(self.data).stem or "prompts"


def _is_meant_as_prompts(name: str) -> bool:
    """Whether an option follows data, though none of them is the reward."""
    return bool(re.match(r"[^,:=]+,\w+=", name)) and not Path(name.rpartition(":")[0]).is_file()


def path_from_root(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def path_from_here(path: str) -> str:
    """For people: a path as it is seen from the working directory, where it lies beneath it."""
    here = os.path.relpath(path)
    return path if here.startswith("..") else here


def absolute(name: str) -> str:
    """An environment's name that means the same from every folder."""
    return _with_paths(name, path_from_root)


def shown(name: str) -> str:
    """An environment's name for people: its paths as they are seen from here."""
    return _with_paths(name, path_from_here)


def label(*names: str) -> str:
    """Environments as a part of a run's name: `shell`, `hidden_number`, `own-Loose`, `shell+code`."""
    return "+".join(map(_label, names))


def _label(name: str) -> str:
    if prompts := PromptSet.parse(name):
        return prompts.label
    path, colon, class_name = name.rpartition(":")
    if not colon and not name.replace("-", "").replace("_", "").isalnum():  # told when it is loaded
        return Path(name).stem.strip(".") or "environment"
    if not colon or name.startswith(_OBJECT):
        return class_name
    stem = Path(path).stem if path.endswith(".py") else path.rpartition(".")[2]
    return stem if stem.replace("_", "").lower() == class_name.lower() else f"{stem}-{class_name}"


def _with_paths(name: str, change: Callable[[str], str]) -> str:
    if prompts := PromptSet.parse(name):
        return str(prompts.with_paths(change))
    path, colon, _ = name.rpartition(":")
    return _with_path(name, change) if colon and path.endswith(".py") else name


def _with_path(name: str, change: Callable[[str], str]) -> str:
    path, colon, inner = name.rpartition(":")
    return f"{change(path)}:{inner}" if colon else name


def offer(name: str, given: object) -> None:
    """`given` is what `name` means in this process, without reading its file."""
    _live[name] = given


def named(given: object) -> str:
    """The name of what was given: a class or a function by the module or the file that any process can load
    it from, anything else by one that means nothing elsewhere.
    """
    if isinstance(given, str):
        return absolute(given)
    name = _importable(given) or next((name for name, live in _live.items() if live is given), "")
    if not name:
        title = str(getattr(given, "__name__", type(given).__name__))
        name = first = f"{_OBJECT}{title if title.isidentifier() else 'made'}"
        while name in _live:
            name = f"{first}-{len(_live)}"
    offer(name, given)
    return name


def is_only_here(name: str) -> bool:
    """Whether a name means something in this process alone."""
    return name.startswith(_OBJECT)


def is_made_here(kind: type) -> bool:
    """Whether the latest instance that `make` made of a class needed more than the class."""
    return kind in _made_here


def _importable(given: Any) -> str:
    """The name by which a class or a function at the top of a module can be loaded again; else nothing."""
    module = sys.modules.get(str(getattr(given, "__module__", "")))
    title = str(getattr(given, "__qualname__", ""))
    if module is None or not title.isidentifier() or getattr(module, title, None) is not given:
        return ""
    path, spec = Path(getattr(module, "__file__", None) or ""), module.__spec__
    if not path.is_file() or path.suffix != ".py":
        return ""
    dotted = spec.name if spec else module.__name__
    is_installed = dotted.partition(".")[0] in packages_distributions()
    return (
        f"{dotted}:{title}"
        if is_installed or _needs_package(path)
        else f"{path_from_root(str(path))}:{title}"
    )


def _needs_package(path: Path) -> bool:
    """Whether it imports from its own package, so that it cannot be run as a file."""
    tree = ast.parse(path.read_bytes())
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def functions(kind: str, names: str, bad: type[AgitoError]) -> tuple[Callable[..., Any], ...]:
    """Those of `path.py:first+second`. Raises `NotFound` for a missing file or function, and `bad` for a file
    that fails.
    """
    found, modules, path = list[Callable[..., Any]](), dict[str, ModuleType](), ""
    for each in names.split("+"):
        before, colon, name = each.rpartition(":")
        path = before if colon else path
        if not path.endswith(".py"):
            raise NotFound(f"{kind} {names!r}: write FILE.py:FUNCTION")
        function = _live.get(f"{path}:{name}")
        if function is None:
            modules[path] = modules.get(path) or _from_file(kind, Path(path), bad)
            function = getattr(modules[path], name, None)
        if not callable(function):
            known = [
                key
                for key, value in vars(modules[path]).items()
                if callable(value) and not key.startswith("_")
            ]
            raise NotFound(f"{kind} {names!r}: {path} has no function {name}{meant(name, known)}")
        found.append(function)
    return tuple(found)


def make(
    kind: str, name: str, bundled: Mapping[str, str], members: Sequence[str], bad: type[AgitoError]
) -> object:
    """An instance, made without arguments, that has every one of `members`.

    `kind` is for messages. Raises `NotFound` for an unknown name, a missing file or class, and `bad` for a
    file or class that fails or lacks a member.
    """
    found = _live[name] if name in _live else _found(kind, name, bundled, bad)
    is_object = not isinstance(found, type) and all(hasattr(found, each) for each in members)
    class_name = name.rpartition(":")[2]
    try:
        made = _another(found) if is_object else found()
    except Exception as error:  # the boundary: it is somebody else's class
        raise bad(f"{kind} {name!r}: {class_name}() fails: {_explained(error)}") from error
    missing = [each for each in members if not hasattr(made, each)]
    if missing:
        raise bad(
            f"{kind} {name!r}: {class_name} lacks {', '.join(missing)}, which every {kind} has: pydoc "
            f"agito.protocols.{kind.title()}"
        )
    (_made_here.discard if isinstance(found, type) else _made_here.add)(made.__class__)
    return made


def _another(given: Any) -> Any:
    """A copy of an object that is closed after each use; else the object itself."""
    if not hasattr(given, "aclose"):
        return given
    try:
        return copy.deepcopy(given)
    except Exception as error:  # the boundary: it holds whatever it likes
        raise TypeError(
            f"every use takes a copy of the object, and it cannot be copied ({error}); give its class, or a "
            "function that makes it"
        ) from error


def _found(kind: str, name: str, bundled: Mapping[str, str], bad: type[AgitoError]) -> Any:
    """The class, or function, by its name."""
    if is_only_here(name):
        raise NotFound(
            f"{kind} {name!r}: only the process that was given it knows it; from Python, "
            f"agito.resume(path, {kind}=...) takes it again"
        )
    target = bundled.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if not module_name and kind == "environment" and (data := _data_in(name)):
        raise NotFound(
            f"{kind} {name!r}: a set of prompts is an environment with its reward function: "
            f"{data},reward=FILE.py:NAME"
        )
    if not module_name and name.endswith(".py"):
        raise NotFound(f"{kind} {name!r}: name its class too, {name}:Class{_in_file(kind, name)}")
    if not module_name:
        hint = _in_recipe(kind, name) or _in_file(kind, f"{name}.py") or meant(name, tuple(bundled))
        raise NotFound(f"{kind} {name!r}: there is {', '.join(bundled)}; your own is path.py:Class{hint}")
    module = (
        _from_file(kind, Path(module_name), bad)
        if module_name.endswith(".py")
        else _from_module(kind, module_name, bad)
    )
    if kind == "environment" and module.__file__:
        _asked[path_from_root(module.__file__)] = name
    found = getattr(module, class_name, None)
    if found is None:
        known = [key for key, value in vars(module).items() if isinstance(value, type)]
        hint = _in_file(kind, module.__file__ or "", module_name) or meant(class_name, known)
        raise NotFound(f"{kind} {name!r}: {module_name} has no {class_name}{hint}")
    return found


def _in_recipe(kind: str, name: str) -> str:
    """What a bundled recipe of this name trains on."""
    path = _RECIPES / f"{name}.toml"
    if kind != "environment" or not name.replace("-", "").isalnum() or not path.is_file():
        return ""
    section = tomllib.loads(path.read_text(encoding="utf-8")).get("env", {})
    names = [str(each["name"]) for each in section.get("mix", [section])]
    return f"; {name} is a recipe, which trains on {' and '.join(names)}"


def _data_in(name: str) -> str:
    """The file, or the folder, of prompts that stands where an environment should; else nothing."""
    data = name.partition(",")[0]
    return data if data and (Path(data).suffix.lower() in _DATA or Path(data).is_dir()) else ""


def _from_module(kind: str, module_name: str, bad: type[AgitoError]) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            raise NotFound(f"{kind} {module_name}: there is no such module to import here") from None
        raise bad(f"{kind} {module_name}: {_explained(error)}") from error
    except Exception as error:  # the boundary: it is somebody else's module
        raise bad(f"{kind} {module_name}: {_explained(error)}") from error


def _in_file(kind: str, path: str, module_name: str = "") -> str:
    """The classes of a file that look like what is wanted."""
    found = [f"{module_name or path}:{each}" for each in classes_in(path, kind)]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def classes_in(path: str, kind: str = "environment") -> list[str]:
    """Those of a file that are of this kind by the names of their bases, without running it."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError):
        return []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [each.name for each in classes if any(kind.title() in ast.unparse(base) for base in each.bases)]


def _from_file(kind: str, path: Path, bad: type[AgitoError]) -> ModuleType:
    """Always from the source: cached bytecode can be stale when a file is edited twice within a second."""
    if not path.is_file():
        raise NotFound(f"{kind} file {path}: there is no such file")
    module = ModuleType(f"agito_{'env' if kind == 'environment' else kind}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    token = reads_file.set(str(path))
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # the boundary: it is somebody else's file
        raise bad(f"{kind} file {path}: {_explained(error)}") from error
    finally:
        reads_file.reset(token)
    return module


def environment_in(path: str) -> str:
    """The environment whose source this file is, as a person named it; empty: none that was loaded here."""
    found = _asked.get(path_from_root(path), "")
    return shown(found) if found else ""


def is_theirs(filename: str) -> bool:
    """Neither ours nor of an installed package, unless an environment was loaded from there."""
    path = Path(filename)
    if path.is_relative_to(_OURS) or not path.is_file():
        return False
    return bool(environment_in(filename)) or not any(path.is_relative_to(place) for place in _INSTALLED)


def line_of(error: BaseException) -> str:
    """`boom.py:24`: the innermost line of somebody else's code that led to an error. Empty: all are ours."""
    frames = traceback.extract_tb(error.__traceback__)
    found = next((frame for frame in reversed(frames) if is_theirs(frame.filename)), None)
    return f"{Path(found.filename).name}:{found.lineno}" if found else ""


def _explained(error: Exception) -> str:
    """With the line of whoever raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" (line {frames[-1].lineno} of {frames[-1].filename})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{at}"
