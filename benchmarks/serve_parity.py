"""Train-serve parity: an exported policy in `vllm serve`, acted by a loop over the `openai` package.

    AGITO_VLLM=PATH/bin/vllm python benchmarks/serve_parity.py --run RUN [--sdk PYTHON] [--tasks 200]
        [--short]

RUN is a finished run whose policy speaks a chat template. It is exported as `agito export` does it, and
served with the tool parser that the export names. Then somebody else's agent (`peers/sdk_loop.py`, in an
environment with `openai`, by default vLLM's own) plays the tasks of `agito eval RUN`: chat completions with
tools, its calls parsed by the server, executed and graded by Agito, at the same temperature and limits of a
turn. `ours` is what `agito eval RUN` finds on the same tasks; both are success and its 95% interval.

`same_prompts`: of the served turns, how many saw the very tokens that training would have shown: what was
seen and sampled so far, then the renderer's observation. `differences` counts the others by what came before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from agito.evaluation import endpoint
from agito.protocols import Agent, Renderer, Session
from agito.recipe import Recipe
from agito.record import rate, rates_by_cell
from agito.render.messages import answered, messages_of
from agito.runtime import load_policy
from agito.runtime.export import export
from agito.runtime.policy_sources import renderer_of
from agito.runtime.run_context import open_run_context
from agito.sampling.vllm import installed
from agito.types import (
    Attempt,
    AttemptId,
    Budget,
    Call,
    Event,
    Fault,
    FinishReason,
    Limits,
    Task,
    TerminationReason,
    Trajectory,
    Turn,
)
from harness import Json, report

AGITO = (sys.executable, "-m", "agito.cli")
LOOP = Path(__file__).parent / "peers" / "sdk_loop.py"
NAME = "policy"
START_S, ANSWER_S, LINE_BYTES = 600.0, 300.0, 1 << 22
SLACK = 256  # tokens of context for prompts that are longer than in training
_LOOK_S = 1.0


class SdkLoop:
    """The client of `endpoint.attempts`: another process decides, and this one acts for it."""

    roles: tuple[str, ...] = ()

    def __init__(self, process: Process, renderer: Renderer, temperature: float) -> None:
        self._process, self._renderer, self._temperature = process, renderer, temperature
        self._heard: dict[int, Any] = {}  # where the lines of each episode go
        self._num = 0
        self.num_answers, self.failure = 0, ""
        self.same, self.differences = 0, Counter[str]()

    async def listen(self) -> None:
        """Until the process ends."""
        assert self._process.stdout is not None
        reading = BufferedByteReceiveStream(self._process.stdout)
        while True:
            line = json.loads(await reading.receive_until(b"\n", LINE_BYTES))
            await self._heard[line["id"]].send(line)

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        self._num += 1
        number, began, events, turns = self._num, time.monotonic(), list[Event](), list[Turn]()
        sending, heard = anyio.create_memory_object_stream[Any](4)
        self._heard[number] = sending
        fault, detail = None, ""
        try:
            with anyio.fail_after(ANSWER_S * task.limits.turns):
                end = await self._turns(number, task, session, heard, events, turns)
        except (RuntimeError, TimeoutError) as error:
            self.failure = detail = str(error)
            end, fault = TerminationReason.FAILED, Fault.INFRA
        finally:
            sending.close()
            heard.close()
        return Trajectory(
            attempt=attempt,
            task=task,
            segments=(),
            turns=tuple(turns),
            events=tuple(events),
            end=end,
            fault=fault,
            detail=detail,
            wall_s=time.monotonic() - began,
        )

    async def _turns(
        self, number: int, task: Task, session: Session, heard: Any, events: list[Event], turns: list[Turn]
    ) -> TerminationReason:
        limits, expected, before = task.limits, self._renderer.opening(task), "the opening"
        tools = [tool.as_function() for tool in task.tools if not tool.is_speech]
        asked = {"temperature": self._temperature, "max_tokens": limits.turn_tokens, "tools": tools}
        await self._say({"id": number, "messages": messages_of(task), **asked})
        for turn in range(limits.turns):
            answer = await heard.receive()
            if "failure" in answer:
                raise RuntimeError(answer["failure"])
            self.num_answers += 1
            self._compare(answer["prompt_ids"], expected, before)
            calls = _calls(answer)[: limits.calls - len(events)]
            left = Budget(
                turns=limits.turns - turn - 1,
                calls=limits.calls - len(events) - len(calls),
                tokens=limits.tokens,
            )
            new = await session.act(calls, left)
            at, length = len(answer["prompt_ids"]), len(answer["ids"])
            turns.append(
                Turn(
                    segment=0,
                    start=at,
                    stop=at + length,
                    stopped=FinishReason.LENGTH if answer["cut"] else FinishReason.END,
                    calls=tuple(range(len(events), len(events) + len(new))),
                )
            )
            events.extend(new)
            end = array("i", self._renderer.stop_ids[:1] if answer["cut"] else ())
            ids = array("i", answer["prompt_ids"] + answer["ids"])
            expected, before = ids + end + self._renderer.observation(new), _kind(answer)
            over = _over(limits, events, turn + 1, len(expected))
            results = None if over else [answered(each) for each in new]
            room = min(limits.turn_tokens, limits.tokens - len(expected))
            await self._say({"id": number, "results": results, "max_tokens": room})
            if over:
                return over
        raise AssertionError("the last turn ends it")

    def _compare(self, seen: Sequence[int], expected: array[int], before: str) -> None:
        if list(seen) == list(expected):
            self.same += 1
        else:
            self.differences[before] += 1

    async def _say(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send(json.dumps(line).encode() + b"\n")


def _over(
    limits: Limits, events: Sequence[Event], num_turns: int, num_tokens: int
) -> TerminationReason | None:
    """Why an attempt goes no further, as in training."""
    if events[-1].ended:
        return TerminationReason.SUBMITTED
    if len(events) >= limits.calls:
        return TerminationReason.CALLS
    if num_turns >= limits.turns:
        return TerminationReason.TURNS
    return TerminationReason.TOKENS if num_tokens >= limits.tokens else None


def _calls(answer: dict[str, Any]) -> list[Call]:
    """As they are; one with a problem where there is none."""
    found: list[Call] = []
    for each in answer["calls"]:
        try:
            arguments = json.loads(each["arguments"])
        except ValueError as error:
            found.append(Call(tool=each["name"], arguments={}, raw=each["arguments"], problem=str(error)))
        else:
            found.append(Call(tool=each["name"], arguments=arguments, raw=each["arguments"]))
    problem = "the turn was cut off" if answer["cut"] else "no tool was called"
    return found or [Call(tool="", arguments={}, raw=answer["text"] or "", problem=problem)]


def _kind(answer: dict[str, Any]) -> str:
    """What the turn was, by the server's reading."""
    if not answer["calls"]:
        return "a turn that was cut off" if answer["cut"] else "a turn without a call"
    words = " and words" if (answer["text"] or "").strip() else ""
    return f"{'one call' if len(answer['calls']) == 1 else 'several calls'}{words}"


@contextmanager
def served(folder: Path, options: Sequence[str], context: int, log: Path) -> Generator[str]:
    """The address of a server of this folder."""
    program = installed()
    if program is None:
        raise SystemExit("needs vLLM: make vllm, or AGITO_VLLM=PATH/bin/vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *program,
        "serve",
        str(folder),
        *options,
        *("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(context), "--max-num-seqs", "16", "--enforce-eager"),
        "--disable-uvicorn-access-log",
    ]
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    }
    ours = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=kept | ours, stdout=out, stderr=out, start_new_session=True)
        try:
            until = time.monotonic() + START_S
            while not _is_up(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"vLLM did not start:\n{log.read_text()[-2000:]}")
                time.sleep(_LOOK_S)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


async def played(
    checkpoint: Path, recipe: Recipe, url: str, sdk: str, num_tasks: int
) -> tuple[tuple[Attempt, ...], SdkLoop]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    renderer = renderer_of(checkpoint, recipe)
    async with (
        open_run_context(recipe) as run_context,
        await anyio.open_process([sdk, str(LOOP), url, NAME], stderr=None, env=environment) as process,
        anyio.create_task_group() as tasks,
    ):
        client = SdkLoop(process, renderer, recipe.eval.temperature)
        tasks.start_soon(client.listen)
        found = await endpoint.attempts(client, run_context, "heldout", num_tasks)
        tasks.cancel_scope.cancel()
        process.terminate()
        return found, client
    raise AssertionError("unreachable")


def our_own(run: Path, num_tasks: int) -> dict[str, Any]:
    command = (*AGITO, "eval", str(run), "--n", str(num_tasks), "--no-baselines", "--json")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measured(options: argparse.Namespace) -> tuple[dict[str, Json], dict[str, Json]]:
    checkpoint = load_policy.find(options.run)
    recipe = load_policy.recipe_of(checkpoint)
    ours = our_own(options.run, options.tasks)
    with tempfile.TemporaryDirectory(prefix="agito-") as room:
        exported, log = export(options.run, Path(room) / "exported"), Path(room) / "vllm.log"
        began = time.monotonic()
        positions = json.loads((exported.folder / "config.json").read_text())["max_position_embeddings"]
        context = min(recipe.compute.context + SLACK, positions)
        with served(exported.folder, exported.serve, context, log) as url:
            up_s, began = time.monotonic() - began, time.monotonic()
            attempts, client = anyio.run(played, checkpoint, recipe, url, options.sdk, options.tasks)
            played_s = time.monotonic() - began
    success = rate(attempts)
    policy = ours["policy"]
    figures: dict[str, Json] = {
        "ours": [round(policy[name], 4) for name in ("success", "success_low", "success_high")],
        "served": [round(each, 4) for each in (success.success, success.low, success.high)],
        "same_prompts": [client.same, client.num_answers],
    }
    void = [attempt.trajectory.detail for attempt in attempts if not attempt.is_scored]
    detail: dict[str, Json] = {
        "tasks": options.tasks,
        "serve": list(exported.serve),
        "differences": dict(client.differences),
        "ends": dict(Counter(str(attempt.trajectory.end) for attempt in attempts)),
        "turns_per_attempt": round(client.num_answers / len(attempts), 2),
        "by_cell": {
            "ours": {name: each["success"] for name, each in policy["by_cell"].items()},
            "served": {name: each.success for name, each in rates_by_cell(attempts).items()},
        },
        "void": {"ours": policy["void"], "served": len(void), "causes": cast("Json", void[:3])},
        "seconds": {"ours": ours["wall_s"], "start": round(up_s, 1), "served": round(played_s, 1)},
    }
    return figures, detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, required=True, help="a finished run, or a checkpoint of one")
    parser.add_argument("--sdk", metavar="PYTHON", help="of an environment with the package openai")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--short", action="store_true", help="8 tasks: does it run")
    options = parser.parse_args()
    if options.short:
        options.tasks = 8
    program = installed()
    options.sdk = options.sdk or (str(Path(program[0]).parent / "python") if program else "")
    report("serve_parity", *measured(options))


if __name__ == "__main__":
    main()
