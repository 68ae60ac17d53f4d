"""Rules for the source tree as a whole."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import agito

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "agito"
TORCH_ROOMS = {"models"}
# some of their modules load torch; the rest is in the contract
MIXED_ROOMS = {"learning", "runtime", "sampling", "weights"}
MAX_FILE_LINES = 400  # not counting blank ones
MAX_FUNCTION_LINES = 60
SAME_LINES = 10


def rooms() -> list[str]:
    """Top-level modules and packages of agito."""
    return sorted(
        p.stem
        for p in SRC.iterdir()
        if (p.suffix == ".py" and p.stem != "__init__") or (p / "__init__.py").exists()
    )


def sources() -> list[Path]:
    return sorted(path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def contract(name: str, option: str) -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return set(parser[f"importlinter:contract:{name}"][option].split())


def torch_free_modules() -> list[str]:
    """Every module of the half that must never load torch."""
    covered = contract("torch", "source_modules")
    found: list[str] = []
    for path in sorted(SRC.rglob("*.py")):
        module = ".".join(("agito", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        if any(module == room or module.startswith(room + ".") for room in covered):
            found.append(module)
    return found


def test_every_room_is_either_a_torch_room_or_bound_by_the_contract_that_forbids_torch() -> None:
    covered = {module.removeprefix("agito.") for module in contract("torch", "source_modules")}
    unbound = [room for room in rooms() if room not in TORCH_ROOMS | MIXED_ROOMS | covered]
    assert not unbound, f"add {unbound} to the contract `torch` in .importlinter, or to TORCH_ROOMS here"


def test_there_are_few_rooms_and_fewer_modules_outside_of_them() -> None:
    modules = [path.name for path in SRC.glob("*.py")]
    folders = [path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(modules) <= 8 and len(folders) <= 26, (modules, folders)


def test_the_layers_have_no_exceptions() -> None:
    assert "ignore_imports" not in (ROOT / ".importlinter").read_text()


def test_the_drawing_of_the_rooms_is_of_this_code() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/architecture.py", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_package_has_an_init_file_so_that_no_import_contract_overlooks_it() -> None:
    folders = {parent for path in SRC.rglob("*.py") for parent in path.parents if parent.is_relative_to(SRC)}
    missing = sorted(
        str(folder.relative_to(SRC)) for folder in folders if not (folder / "__init__.py").exists()
    )
    assert not missing, f"no __init__.py in {missing}"


def test_every_room_without_torch_is_typed_strictly() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    paths = map(Path, config["tool"]["pyright"]["strict"])
    strict = {path.parts[2] for path in paths if path.parts[0] == "src"}
    packages = [room for room in rooms() if (SRC / room).is_dir()]
    assert "*.py" in strict
    loose = [room for room in packages if room not in TORCH_ROOMS | strict]
    assert not loose, f"add {loose} to [tool.pyright] strict"


def test_the_torch_free_half_really_imports_without_torch() -> None:
    modules = torch_free_modules()
    assert len(modules) > 5
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nsys.exit('torch' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr or "torch was loaded"


def test_what_a_worker_knows_of_a_run_loads_nothing_that_reads_parquet() -> None:
    code = "import sys, agito.record.commits, agito.runtime.wire; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_importing_agito_alone_is_light() -> None:
    code = (
        "import sys, agito; print(sum(m.startswith(('torch', 'numpy', 'pyarrow', 'rich', 'pydantic')) "
        "for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stdout + done.stderr


def test_every_file_and_every_function_can_be_read_in_one_go() -> None:
    long = list[str]()
    for path in sources():
        place, text = path.relative_to(ROOT), path.read_text()
        lines = sum(1 for line in text.splitlines() if line.strip())
        if lines > MAX_FILE_LINES and "planted" not in path.parts:  # those are as strangers send them
            long.append(f"{place}: {lines} lines: split the file by idea")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long.append(f"{place}: {node.name} has {length} lines: name its parts")
    assert not long, "\n".join(long)


def test_whoever_catches_every_exception_says_why() -> None:
    silent = [found for path in SRC.rglob("*.py") for found in _catch_all_without_a_reason(path)]
    assert not silent, "name the boundary in a comment on that line:\n" + "\n".join(silent)


def _catch_all_without_a_reason(path: Path) -> list[str]:
    text = path.read_text()
    lines = text.splitlines()
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
        )
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        and "#" not in lines[node.lineno - 1]
    ]


def lines_of_code(path: Path) -> list[tuple[int, str]]:
    """Numbered, without imports, docstrings, comments and what is blank."""
    text = path.read_text()
    left_out = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    skipped = {number for lines in left_out for number in lines}
    stripped = [
        (number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in skipped
    ]
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def test_no_ten_lines_of_our_code_stand_in_two_places() -> None:
    seen: dict[tuple[str, ...], str] = {}
    twice: list[str] = []
    for path in sorted(SRC.rglob("*.py")):
        lines = lines_of_code(path)
        for at in range(len(lines) - SAME_LINES + 1):
            window = tuple(line for _, line in lines[at : at + SAME_LINES])
            place = f"{path.relative_to(ROOT)}:{lines[at][0]}"
            first = seen.setdefault(window, place)
            twice += [f"{place} as in {first}"] if first != place else []
    assert not twice, twice[:10]


def literals(text: str) -> set[object]:
    return {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}


def test_the_version_is_declared_once() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in config["project"]["dynamic"] and "version" not in config["project"]
    saying = [path for path in SRC.rglob("*.py") if agito.__version__ in literals(path.read_text())]
    assert saying == [SRC / "__init__.py"], "take it from agito.__version__"
    assert importlib.metadata.version("agito") == agito.__version__


def imported(folder: str) -> set[str]:
    """Top-level names of everything imported below `folder`, our own and the standard library's apart."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        if "peers" in path.parts:  # programs of other environments, which a benchmark starts there
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return {name.lower() for name in found - sys.stdlib_module_names - {"agito", "tests"}}


def declared(*lists: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line)[0].replace("-", "_").lower() for lines in lists for line in lines}


def test_whatever_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    runtime = declared(project["dependencies"], *extras)
    missing = imported("src") - runtime
    assert not missing, (
        f"src/ imports {missing}: add them to dependencies, or to an extra, in pyproject.toml, then make "
        "constraints"
    )
    missing = imported("tests") | imported("benchmarks")
    missing -= (
        runtime
        | declared(project["optional-dependencies"]["dev"])
        | {p.stem for p in (ROOT / "benchmarks").rglob("*.py")}
    )
    assert not missing, f"tests/ or benchmarks/ import {missing}: add them to the extra `dev`"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = declared((ROOT / "constraints.txt").read_text().splitlines())
    needed = declared(project["dependencies"], project["optional-dependencies"]["dev"])
    assert needed <= pinned, f"{needed - pinned} are not in constraints.txt: run make constraints"
