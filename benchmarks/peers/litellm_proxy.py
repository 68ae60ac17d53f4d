"""LiteLLM's proxy before a server of OpenAI's API: what other systems put between an agent and its policy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

_START_S, _END_S = 600.0, 20.0  # its first start compiles all that it imports


def installed() -> Path | None:
    """The program, in `AGITO_LITELLM`: an environment of its own with `litellm[proxy]`."""
    folder = os.environ.get("AGITO_LITELLM")
    program = Path(folder) / "bin" / "litellm" if folder else None
    return program if program is not None and program.is_file() else None


def version(program: Path) -> str:
    code = "import importlib.metadata as found; print(found.version('litellm'))"
    python = program.with_name("python")
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def proxy(program: Path, upstream: str, key: str) -> Generator[str]:
    """Its address, as it comes: one worker, no database. Raises `TimeoutError`, with what it said."""
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        model = {"model": "openai/policy", "api_base": f"{upstream}/v1", "api_key": key}
        config = {
            "model_list": [{"model_name": "policy", "litellm_params": model}],
            "general_settings": {"master_key": key},
        }
        path = Path(home) / "config.yaml"
        path.write_text(json.dumps(config))  # which is YAML too
        kept = {"PATH": os.environ["PATH"], "HOME": home, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with (Path(home) / "said").open("w+b") as said:
            words = [
                program,
                "--config",
                path,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--telemetry",
                "False",
            ]
            process = subprocess.Popen(words, env=kept, cwd=home, stdout=said, stderr=said)
            try:
                url = f"http://127.0.0.1:{port}"
                _await(url, process, Path(home) / "said")
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(timeout=_END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=_END_S)


def _await(url: str, process: subprocess.Popen[bytes], said: Path) -> None:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(f"the proxy does not answer: {said.read_text()[-2000:]}")
