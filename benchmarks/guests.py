"""What becomes of other people's agents behind the gateway: the real packages, one attempt after another.

    AGITO_GUEST_ENVS=FOLDER python benchmarks/guests.py [--only NAME,...] [--short]
    AGITO_GUEST_ENVS=FOLDER python benchmarks/guests.py --model FOLDER [--only NAME,...] [--seeds 2]

`FOLDER/NAME/bin/python` is the Python of a guest that is installed (`FOLDER/qwen-code/node_modules` for the
one from npm); the others are left out. The agents are those of `examples/guests/`. Each is started as
`[harness] command` starts it, on the environment of `agito.testing` (a coin in one of several boxes), and
graded as any other attempt. The policy is scripted: it says what each attempt's script says, turn by turn, in
the spelling that it is given, and the guest does the rest.

- `kept_turns`: of the turns with a history, the share that went on with the row on which that history was
  sampled, with its 95% interval.
- `rewritten`: the first place at which what a guest sent back is not what it was answered.
- `breaks`: what the guest does about a call to a tool that does not exist, a call with wrong arguments, a
  call that is no JSON, and an answer without any call.

With `--model`, a pre-trained model is trained through three guests instead (`guest_training.py`): `before`
and `after` are its success on held-out tasks of the real shell, over all seeds, with 95% intervals. Each form
keeps what the other has reported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

import guest_training
from agito.harness import SOLO
from agito.harness.foreign import CommandHarness
from agito.protocols import AgentSpec, Row, Sampled, SampleRequest
from agito.record.intervals import wilson
from agito.render import NaturalRenderer, learn
from agito.rollout import AttemptRunner, Plan
from agito.testing import FakeEnvironment
from agito.types import Attempt, AttemptId, FinishReason, Limits, Target, Task, span
from harness import RESULTS, Json, report

AGENTS = Path(__file__).parents[1] / "examples" / "guests"
LIMITS = Limits(turns=24, calls=24, tokens=1 << 20, turn_tokens=4000, seconds=300)
GUEST_S = 60.0


def call(
    tool: str, box: object, *, spelling: str = '{{"name": "{0}", "arguments": {{"box": "{1}"}}}}'
) -> str:
    return "<tool_call>\n" + spelling.format(tool, box) + "\n</tool_call>"


COMPACT = '{{"name":"{0}","arguments":{{"box":"{1}"}}}}'
WIDE = '{{ "name" : "{0}",\n  "arguments" : {{ "box" : "{1}" }} }}'


def called(coin: str) -> dict[str, list[str]]:
    """What a policy says that writes calls of tools: with and without words, one and several, in three
    spellings; then what goes wrong.
    """
    end = call("submit", coin)
    return {
        "plain": [call("open", 1), call("open", 2), call("open", 5), end],
        "words": [
            f"I look into box 1.\n{call('open', 1)}",
            f"Nothing.\n\nNow the next.\n{call('open', 2)}",
            end,
        ],
        "several": [
            call("open", 1) + "\n" + call("open", "é"),
            call("open", 3) + "\n" + call("open", 4),
            end,
        ],
        "spellings": [
            call("open", 1, spelling=COMPACT),
            call("open", 2, spelling=WIDE),
            call("open", "é", spelling=COMPACT),
            end,
        ],
        "bad: no such tool": [call("open", 1), call("peek", 2), call("open", 3), end],
        "bad: wrong arguments": [
            call("open", 1),
            call("open", 2).replace('"box"', '"bax"'),
            call("open", 3),
            end,
        ],
        "bad: no JSON": [call("open", 1), call("open", 2)[:-16] + "</tool_call>", call("open", 3), end],
        "bad: no call": [call("open", 1), "I do not know.", call("open", 3), end],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """`command`: `{python}` is its own, `{bin}` where its programs are. `tool`: what it puts before the names
    of the session's tools.
    """

    name: str
    command: str
    folder: str  # of its environment
    tool: str = ""
    style: str = "calls"  # calls, code, shell
    compact: bool = False  # `[harness] compact`


GUESTS = (
    Guest(name="openai", folder="openai", command="{python} openai_sdk.py"),
    Guest(name="openai-agents", folder="openai-agents", command="{python} openai_agents.py"),
    Guest(name="pydantic-ai", folder="pydantic-ai", command="{python} pydantic_ai_agent.py"),
    Guest(
        name="pydantic-ai compact",
        folder="pydantic-ai",
        command="{python} pydantic_ai_agent.py",
        compact=True,
    ),
    Guest(name="langgraph", folder="langgraph", command="{python} langgraph_agent.py"),
    Guest(
        name="smolagents tools", folder="smolagents", command="{python} smolagents_agent.py ToolCallingAgent"
    ),
    Guest(
        name="smolagents code",
        folder="smolagents",
        command="{python} smolagents_agent.py CodeAgent",
        style="code",
    ),
    Guest(
        name="mini-swe-agent", folder="mini-swe-agent", command="{python} mini_swe_agent.py", style="shell"
    ),
    Guest(
        name="qwen-code",
        folder="qwen-code",
        command="env PATH={bin}:/usr/bin:/bin bash qwen_code.sh",
        tool="mcp__agito__",
    ),
    Guest(
        name="qwen-code compact",
        folder="qwen-code",
        command="env PATH={bin}:/usr/bin:/bin bash qwen_code.sh",
        tool="mcp__agito__",
        compact=True,
    ),
)

TRAINED = ("openai", "openai-agents", "langgraph")


def said_by(guest: Guest, coin: str) -> dict[str, list[str]]:
    """The scripts, in the words that this guest's prompt asks a policy for."""
    scripts = called(coin)
    if guest.style == "calls":
        return {name: [_renamed(turn, guest.tool) for turn in turns] for name, turns in scripts.items()}
    write = {"code": _as_code, "shell": _as_shell}[guest.style]
    return {name: [write(turn) for turn in turns] for name, turns in scripts.items()}


def _renamed(turn: str, prefix: str) -> str:
    return re.sub(r'("name"\s*:\s*")', rf"\g<1>{prefix}", turn)


def _uses(turn: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The words, and the calls: tool, the argument's name, its value."""
    words = turn.partition("<tool_call>")[0].strip()
    return words, re.findall(r'"name"\s*:\s*"(\w+)",\s*"arguments"\s*:\s*\{\s*"(\w+)"\s*:\s*"([^"]*)"?', turn)


def _as_code(turn: str) -> str:
    words, uses = _uses(turn)
    if not uses:
        return words
    lines = [f"print({tool}({name}={value!r}))" for tool, name, value in uses]
    return f"Thought: {words or 'go on'}\n<code>\n" + "\n".join(lines) + "\n</code>"


def _as_shell(turn: str) -> str:
    words, uses = _uses(turn)
    told = f"{words}\n" if words else ""
    if not uses:
        return words
    return told + "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": "bash", "arguments": {"command": _curl(*use)}})
        + "\n</tool_call>"
        for use in uses
    )


def _curl(tool: str, name: str, value: str) -> str:
    body = json.dumps({name: value})
    return f"""curl -s -H "authorization: Bearer $AGITO_KEY" -d '{body}' $AGITO_TOOLS_URL/{tool}"""


class Scripted:
    """An engine that says one turn after another, and then that it is done."""

    context = 1 << 20

    def __init__(self, renderer: NaturalRenderer, turns: Sequence[str]) -> None:
        self._renderer, self._turns, self._num_asked = renderer, turns, 0
        self._forced = renderer.begun("")

    def open(self, seed: int) -> Row:
        return _ScriptedRow(self)

    def next(self, shown: array[int]) -> array[int]:
        """The next turn; where a client forces a call, what follows the beginning of one."""
        turn = self._turns[self._num_asked] if self._num_asked < len(self._turns) else "I am done."
        self._num_asked += 1
        begun = _BEGUN.search(turn) if shown[-len(self._forced) :] == self._forced else None
        return _tokens(self._renderer, turn[begun.end() :] if begun else turn)


class _ScriptedRow:
    def __init__(self, engine: Scripted) -> None:
        self._engine, self._says = engine, array("i")

    async def sample(self, request: SampleRequest) -> Sampled:
        if request.extend:  # else it goes on with the turn
            self._says = self._engine.next(request.extend)
        ids, self._says = self._says[: request.max_tokens], self._says[request.max_tokens :]
        stopped = FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH
        logprobs = array("f", [-0.5]) * len(ids)
        return Sampled(
            ids=ids, logprobs=logprobs, stopped=stopped, versions=span(0, len(request.extend) + len(ids))
        )

    def branch(self, seed: int) -> Row:
        return self

    async def close(self) -> None:
        return


_BEGUN = re.compile(r'<tool_call>\s*\{\s*"name"\s*:\s*"')
_MARKS = re.compile(r"(<tool_call>|</tool_call>)")


def _tokens(renderer: NaturalRenderer, turn: str) -> array[int]:
    ids, vocabulary = array("i"), renderer.vocabulary
    for piece in _MARKS.split(turn):
        ids.extend([vocabulary.id(piece)] if _MARKS.fullmatch(piece) else vocabulary.encode(piece))
    return ids + array("i", renderer.stop_ids[:1])


def renderer() -> NaturalRenderer:
    return NaturalRenderer(learn(["open submit box coin turns left", call("open", 1)] * 9, size=300))


def command_of(guest: Guest, envs: Path) -> str | None:
    """None where it is not installed."""
    python, programs = envs / guest.folder / "bin" / "python", envs / guest.folder / "node_modules" / ".bin"
    if not (programs.is_dir() if "{bin}" in guest.command else python.exists()):
        return None
    return guest.command.format(python=python, bin=programs)


async def attempt(guest: Guest, command: str, script: str, speaks: NaturalRenderer) -> Attempt:
    environment = FakeEnvironment()
    task, target = environment.task(split="train", index=0, seed=0)
    task = replace(task, limits=LIMITS)
    engine = Scripted(speaks, said_by(guest, str(target.data["coin"]))[script])
    harness = CommandHarness(command, folder=str(AGENTS), seconds=GUEST_S, compact=guest.compact)
    runner = AttemptRunner(environment, harness, {SOLO: AgentSpec(renderer=speaks)}, seed=0)

    def one(_: int) -> tuple[Task, Target]:
        return task, target

    return await runner.run(Plan(task=one), AttemptId(group=0, slot=0), {"main": engine})


_KEPT = re.compile(r"(\d+) of (\d+) turns and")
_FIRST = re.compile(r"first otherwise: (.*)", re.DOTALL)


async def measure(
    guest: Guest, command: str, speaks: NaturalRenderer, scripts: Sequence[str]
) -> dict[str, Json]:
    kept = back = 0
    firsts: dict[str, Json] = {}
    breaks: dict[str, Json] = {}
    rewards: dict[str, Json] = {}
    for script in scripts:
        found = await attempt(guest, command, script, speaks)
        detail = found.trajectory.detail
        reward, turns = found.verdict.reward, len(found.trajectory.turns)
        told = _KEPT.search(detail)
        rewards[script] = reward
        first = _FIRST.search(detail)
        if first is not None:
            firsts[script] = first[1]
        if script.startswith("bad") and reward != 1.0:
            breaks[script.removeprefix("bad: ")] = f"ended after {turns} turns: {detail[:300]}"
        elif reward != 1.0:
            breaks[script] = f"reward {reward} after {turns} turns: {detail[:300]}"
        if told is not None:
            kept, back = kept + int(told[1]), back + int(told[2])
        print(f"  {guest.name:18} {script:22} reward {reward} turns {turns:2}  {detail[-200:]!r}", flush=True)
    low, high = wilson(kept, back)
    return {
        "kept_turns": [round(kept / back, 3) if back else None, round(low, 3), round(high, 3)],
        "turns": back,
        "rewards": rewards,
        "rewritten": firsts,
        "breaks": breaks,
    }


def scripted(guest: Guest, command: str, *, short: bool) -> tuple[dict[str, Json], dict[str, Json]]:
    """Its part of the last line, and the detail."""
    scripts = ["plain", "bad: no such tool"] if short else list(called("0"))
    found = anyio.run(measure, guest, command, renderer(), scripts)
    return {"kept_turns": found["kept_turns"]}, found


def trained(
    guest: Guest, command: str, model: str, seeds: int, runs: Path
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Its part of the last line, and the detail."""
    summaries, cold = [], guest_training.cold_start(model, runs)
    for seed in range(seeds):
        out = runs / f"{guest.folder}-{seed}"
        summaries.append(guest_training.trained(command, AGENTS, cold, seed, out))
        print(f"  {guest.name} {seed}: {guest_training.by_seed(summaries[-1:])[0]}", flush=True)
    line: dict[str, Json] = {when: guest_training.over_seeds(summaries, when) for when in ("before", "after")}
    return line, {"trained": guest_training.by_seed(summaries)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names of guests, with commas between")
    parser.add_argument("--short", action="store_true", help="two scripts each")
    parser.add_argument("--model", default="", help="train this pre-trained model through the guests")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/guests"))
    arguments = parser.parse_args()
    if "AGITO_GUEST_ENVS" not in os.environ:
        print("AGITO_GUEST_ENVS: name a folder with the guests' environments", file=sys.stderr)
        return 2
    envs, wanted = Path(os.environ["AGITO_GUEST_ENVS"]), set(filter(None, arguments.only.split(",")))
    kept = RESULTS / "guests.json"
    before: dict[str, dict[str, dict[str, Json]]] = json.loads(kept.read_text()) if kept.exists() else {}
    figures, detail = before.get("figures", {}), before.get("detail", {})
    for guest in GUESTS:
        command = command_of(guest, envs)
        if (wanted and guest.name not in wanted) or (arguments.model and guest.name not in TRAINED):
            continue
        if command is None:
            print(f"  {guest.name}: not installed", flush=True)
            continue
        line, found = (
            trained(guest, command, arguments.model, arguments.seeds, arguments.runs.absolute())
            if arguments.model
            else scripted(guest, command, short=arguments.short)
        )
        figures[guest.name] = {"before": None, "after": None} | figures.get(guest.name, {}) | line
        detail[guest.name] = detail.get(guest.name, {}) | found
    report("guests", figures, detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
