"""The wheel, installed where there is no clone, does what the commands of its page say."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.cli.conftest import COIN, TINY, sets
from tests.cli.test_prompts import REWARD, given, small_model
from tests.gateway.test_serving import agent_of

from agito.testing.fakes import TOOLS

ROOT = Path(__file__).parents[1]
OWN = (
    *COIN,
    "env.dialect=natural",
    "compute.context=1024",
    "sft.demos=16",
    "sft.epochs=1",
    "rl.steps=4",
    "eval.tasks=2",
    "model.vocab_size=400",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The command as installed in `home`, in the folder `work`."""

    home: Path

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{self.home / 'env' / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [str(self.home / "env/bin/agito"), *words],
            cwd=self.work,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.home / "env/bin/agito"), *words],
            cwd=self.work,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "LICENSE", "docs/package.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    pip(folder, "wheel", "--no-build-isolation", "--wheel-dir", ".", ".")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def agito(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """The command as installed, in an empty folder. What the package depends on is taken from the environment
    of these tests.
    """
    home = tmp_path_factory.mktemp("home")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(home / "env")], check=True, timeout=100
    )
    python = home / "env" / "bin" / "python"
    (packages,) = (home / "env").glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    pip(home, "--python", str(python), "install", "--no-compile", str(wheel))
    installed = Installed(home=home)
    installed.work.mkdir()
    return installed


def pip(folder: Path, *words: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        *words,
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(240)
def test_the_wheel_outside_of_a_clone_lists_checks_and_trains(agito: Installed) -> None:
    assert agito("--version").startswith("agito 0.")
    assert "find, repair" in agito("envs", "list") and "quickstart" in agito("recipes")
    agito("envs", "new", "hidden_number")
    assert "keeps the standard" in agito("envs", "check", "hidden_number.py:HiddenNumber")
    assert "success on held-out tasks" in agito("train", "smoke", *sets(*TINY, "rl.steps=1"))
    assert agito("export", "runs/smoke", "mine") == "mine\n"
    assert (agito.work / "mine" / "model.safetensors").is_file()


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_model_is_trained_killed_gone_on_with_and_exported_from_the_wheel_in_an_empty_folder(
    agito: Installed,
) -> None:
    """What remains is to serve the folder, which takes vLLM: `benchmarks/serve_parity.py`."""
    home = agito.work
    small_model(home / "model")
    rows = [{"prompt": f"find kev {at}", "kind": "a"} for at in range(40)]
    (home / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (home / "mine.py").write_text(REWARD.format(after=18, home=home))
    (home / "die").touch()
    agito(*given("mine"), code=9)
    (home / "die").unlink()
    assert not (home / "runs/mine/summary.json").exists()
    agito("train", "--resume", "runs/mine")
    assert agito("export", "runs/mine", "served") == "served\n"
    kept = {path.name for path in (home / "served").iterdir()}
    assert kept >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not kept & {"adapter_config.json", "trainer.tensors", "meta.json"}


@pytest.mark.full
@pytest.mark.timeout(400)
def test_an_agent_of_fifteen_lines_is_trained_killed_gone_on_with_and_served_from_the_wheel(
    agito: Installed,
) -> None:
    """That of the guide, as it stands; unchanged, too, before the policy that it has trained."""
    home, agent = agito.work, agent_of(ROOT / "docs/howto/own-agent.md")
    assert len([line for line in agent.splitlines() if line]) <= 15
    (home / "my_agent.py").write_text(agent)
    (home / "own.toml").write_text('harness = { command = "python my_agent.py" }\n')
    run = home / "runs/own"
    with agito.begin("train", "own.toml", "--name", "own", "--admit-anyway", *sets(*OWN)) as training:
        until = time.monotonic() + 200
        while not (run / "checkpoints/step-2").exists():
            assert training.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        training.kill()
    assert not (run / "summary.json").exists()
    agito("train", "--resume", "runs/own")
    assert (run / "summary.json").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "rl"] == [0, 1, 2, 3]
    with agito.begin("gateway", "runs/own", "--port", "0", "--key", "k", "--record", "kept") as serving:
        try:
            assert serving.stdout is not None
            url = serving.stdout.readline().split("OPENAI_BASE_URL=")[1].split()[0]
            asked = acted(home / "my_agent.py", url)
        finally:
            serving.send_signal(signal.SIGINT)
    assert asked and asked[0] == "GET /tools"
    assert list((home / "kept").glob("served-*.parquet"))


def acted(agent: Path, url: str) -> list[str]:
    """What an agent asks of tools of its user's own, while it is served at `url`."""
    asked = list[str]()

    class Tools(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(f"{self.command} {self.path}")
            tools = [tool.as_function() for tool in TOOLS]
            body = json.dumps(tools if self.command == "GET" else {"content": "empty"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Tools) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tools, task = f"http://127.0.0.1:{server.server_port}/tools", "A coin is in one of 3 boxes."
            given = {
                "OPENAI_BASE_URL": url,
                "OPENAI_API_KEY": "k",
                "AGITO_TOOLS_URL": tools,
                "AGITO_TASK": task,
            }
            subprocess.run([sys.executable, str(agent)], env=given, check=True, timeout=60)
        finally:
            server.shutdown()
            thread.join()
    return asked


def test_what_the_commands_import_at_once_is_required_by_the_package_itself(wheel: Path) -> None:
    """An extra's package, or one that only comes along with another, may be missing where the wheel is."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        requires = message_from_string(archive.read(name).decode()).get_all("Requires-Dist", [])
    required = {re.split(r"[<>=!~ ;\[]", each)[0].lower() for each in requires if "extra ==" not in each}
    providers = packages_distributions()
    missing = {
        f"{module} imports {package}"
        for module, packages in imported_at_once("agito.cli").items()
        for package in packages
        if not required & {each.lower().replace("_", "-") for each in providers.get(package, [])}
    }
    # loaded by a command that says which extra it needs
    assert len(required) > 10 and missing == {"agito.cli.serve imports mcp"}


def imported_at_once(start: str) -> dict[str, set[str]]:
    """Packages of others that each module imports, of those that `start` and its modules lead to, when they
    are loaded: not what a function imports when it is called.
    """
    sources = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "src").rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    todo = [name for name in sources if name == start or name.startswith(f"{start}.")]
    while todo:
        module = todo.pop()
        if module in found or module not in sources:
            continue
        found[module] = set()
        for name in names_imported(ast.parse(sources[module].read_text()).body):
            if name.split(".")[0] == "agito":
                parts = name.split(".")
                todo += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            elif name.split(".")[0] not in sys.stdlib_module_names:
                found[module].add(name.split(".")[0])
    return found


def names_imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from names_imported([*statement.body, *statement.orelse])


def test_the_page_of_the_package_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = str(message_from_string(archive.read(name).decode()).get_payload())
    assert "pip install" in text
    assert not re.findall(r"\]\((?!https://)[^)]*\)", text)


def test_no_message_sends_its_reader_to_a_page_that_is_not_in_the_wheel() -> None:
    found: list[str] = []
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and node not in docstrings
                and re.search(r"docs/[\w/-]+\.md", str(node.value))
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
