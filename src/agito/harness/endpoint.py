"""Any OpenAI-compatible endpoint as the policy, in the natural dialect: messages and tool calls, no tokens,
so nothing to train on.

It reads what a policy of ours reads: the same words, and how many turns are left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from agito.errors import SandboxFailure
from agito.protocols import Agent, Session
from agito.render import policy_json
from agito.render.messages import answered, messages_of
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Event,
    Fault,
    FinishReason,
    Json,
    Limits,
    Task,
    TerminationReason,
    Thinking,
    ToolSpec,
    Trajectory,
    Turn,
)

Message: TypeAlias = "dict[str, Json]"
_REMEDIES = {
    401: "the key comes from OPENAI_API_KEY",
    403: "the key comes from OPENAI_API_KEY",
    404: "the address ends in /v1, and --model is a name that it serves",
    429: "it is asked too often, or the account is empty",
}
_NO_TOOL = "no tool was called: act by calling one of the tools"
_CUT = "the turn was cut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """`num_tokens`: of the answer, `num_whole`: of the conversation so far; 0 where the endpoint does not
    say.
    """

    message: Message
    num_tokens: int = 0
    num_whole: int = 0
    is_cut: bool = False


class ChatHarness:
    """Turn after turn until the episode ends or a limit; the client carries base URL, key and deadline.

    An endpoint counts tokens with a tokenizer of its own, so the token limits of a task do not hold here: its
    turns and calls do, and `turn_tokens` a turn. With `turn_tokens=None` they hold: for a policy of our own
    that is served.
    """

    TURN_TOKENS = 2048

    def __init__(
        self,
        client: httpx.AsyncClient,
        model: str,
        *,
        temperature: float = 1.0,
        turn_tokens: int | None = TURN_TOKENS,
        thinking: Thinking | None = None,
    ) -> None:
        """`thinking` is asked for as `reasoning_effort`. Raises `ValueError` for a hard budget: what an
        endpoint thinks cannot be counted here, let alone stopped."""
        if thinking is not None and (thinking.turn_tokens, thinking.attempt_tokens) != (None, None):
            raise ValueError("an endpoint cannot be held to a budget of think tokens: leave the budget out")
        self._effort = thinking.effort if thinking else None
        self._client, self._model, self._temperature, self._turn_tokens = (
            client,
            model,
            temperature,
            turn_tokens,
        )
        self.num_answers = 0  # that the endpoint has given
        self.failure = ""  # the last, in plain words

    roles: tuple[str, ...] = ()  # it asks the endpoint, not an agent of ours

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        """A failed attempt is a trajectory with a fault, never an exception: an endpoint that does not answer
        is `infra`.
        """
        events, turns, began = list[Event](), list[Turn](), time.monotonic()
        fault, detail = None, ""
        try:
            end = await self._turns(task, session, events, turns)
        except (httpx.HTTPError, ValueError) as error:
            self.failure = detail = self._told(error)
            end, fault = TerminationReason.FAILED, Fault.INFRA
        except SandboxFailure as error:
            end, fault, detail = TerminationReason.FAILED, Fault.INFRA, f"{type(error).__name__}: {error}"
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
        self, task: Task, session: Session, events: list[Event], turns: list[Turn]
    ) -> TerminationReason:
        limits, at, num_whole = task.limits, 0, 0
        messages: list[Message] = messages_of(task)
        for number in range(limits.turns):
            room = self._room(limits, num_whole)
            if room < 1:
                return TerminationReason.TOKENS
            answer = await self._ask(messages, task.tools, room)
            message, num_whole = answer.message, answer.num_whole
            calls, ids = _calls(answer, task.tools)
            calls = calls[: limits.calls - len(events)]
            left = Budget(
                turns=limits.turns - number - 1,
                calls=limits.calls - len(events) - len(calls),
                tokens=limits.tokens,
            )
            new = await session.act(calls, left)
            turns.append(
                Turn(
                    segment=0,
                    start=at,
                    stop=at + answer.num_tokens,
                    stopped=FinishReason.LENGTH if answer.is_cut else FinishReason.END,
                    calls=tuple(range(len(events), len(events) + len(new))),
                )
            )
            at += answer.num_tokens
            events.extend(new)
            if new and new[-1].ended:
                return TerminationReason.SUBMITTED
            if len(events) >= limits.calls:
                return TerminationReason.CALLS
            messages.append(message)
            if ids:
                for each, event in zip(ids, new, strict=False):
                    messages.append({"role": "tool", "tool_call_id": each, "content": answered(event)})
            else:
                messages.append({"role": "user", "content": answered(new[0])})
        return TerminationReason.TURNS

    def _room(self, limits: Limits, num_whole: int) -> int:
        """For the next turn, in tokens."""
        if self._turn_tokens is not None:
            return self._turn_tokens
        return min(limits.turn_tokens, limits.tokens - num_whole)

    async def _ask(self, messages: Sequence[Message], tools: Sequence[ToolSpec], room: int) -> _Answer:
        """Raises `httpx.HTTPError`, `ValueError`."""
        body: dict[str, object] = {
            "model": self._model,
            "messages": list(messages),
            "temperature": self._temperature,
            "max_tokens": room,
        }
        if self._effort is not None:
            body["reasoning_effort"] = self._effort.value
        if offered := [tool.as_function() for tool in tools if not tool.is_speech]:
            body["tools"] = offered
        answer = await self._client.post("chat/completions", json=body)
        answer.raise_for_status()
        try:
            found: Any = json.loads(policy_json.printable(answer.text), parse_constant=str)
        except RecursionError:  # whoever nests without end is the policy
            return _Answer(message={"role": "assistant", "content": ""})
        try:
            choice: Any = found["choices"][0]
            message = _sendable(choice["message"])
            usage: Any = found.get("usage")
            num_tokens = int(usage["completion_tokens"]) if usage else 0
            num_whole = num_tokens + int(usage.get("prompt_tokens") or 0) if usage else 0
            is_cut = choice.get("finish_reason") == "length"
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"its answer has no choices[0].message: {str(found)[:200]}") from error
        self.num_answers += 1
        return _Answer(message=message, num_tokens=num_tokens, num_whole=num_whole, is_cut=is_cut)

    def _told(self, error: Exception) -> str:
        """What is the matter with the endpoint, and what may help."""
        where = str(self._client.base_url).rstrip("/")
        if isinstance(error, httpx.HTTPStatusError):
            code, remedy = error.response.status_code, _REMEDIES.get(error.response.status_code, "")
            said = " ".join(policy_json.printable(error.response.text).split())[:160]
            return (
                f"{where} answers {code} "
                f"{error.response.reason_phrase}{f': {said}' if said else ''}{remedy and f'; {remedy}'}"
            )
        if isinstance(error, httpx.TimeoutException):
            return f"{where} has not answered in time"
        if isinstance(error, httpx.HTTPError):
            return f"{where} cannot be reached: {error or type(error).__name__}"
        return f"{where}: {error}"


def _sendable(message: Message) -> Message:
    """As it can be sent back: without halves of characters, and without fields that say nothing. Some
    endpoints answer `"tool_calls": []` and refuse to read it.
    """
    said: Message = json.loads(policy_json.printable(json.dumps(message, ensure_ascii=False)))
    kept = {name: value for name, value in said.items() if name == "content" or value not in (None, [])}
    return kept if "tool_calls" in kept else kept | {"content": said.get("content") or ""}


def _calls(answer: _Answer, tools: Sequence[ToolSpec]) -> tuple[list[Call], list[str]]:
    """The calls and their ids; one call with a problem, and no ids, where there is none."""
    message = answer.message
    made = message.get("tool_calls")
    if not isinstance(made, list) or not made:
        said = policy_json.printable(str(message.get("content") or ""))
        for speech in tools:
            if speech.is_speech:
                return [speech.spoken(said, said)], []
        problem = _CUT if answer.is_cut else _NO_TOOL
        return [Call(tool=tools[0].name, arguments={}, raw=said, problem=problem)], []
    calls, ids = list[Call](), list[str]()
    for each in made:
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(each, dict) or not isinstance(function, dict):
            raise ValueError(f"its tool call is no function: {str(each)[:200]}")
        calls.append(_call(function))
        ids.append(str(each.get("id", "")))
    return calls, ids


def _call(function: Mapping[str, Json]) -> Call:
    name, found = policy_json.printable(str(function.get("name"))), function.get("arguments")
    said = found if isinstance(found, str) else json.dumps(found)  # some endpoints send an object
    raw = policy_json.printable(said)
    try:
        arguments = policy_json.parse(said)
    except ValueError as error:
        return Call(tool=name, arguments={}, raw=raw, problem=f"the arguments are not JSON: {error}")
    if not isinstance(arguments, dict):
        return Call(tool=name, arguments={}, raw=raw, problem="the arguments are no JSON object")
    return Call(tool=name, arguments=arguments, raw=raw)
