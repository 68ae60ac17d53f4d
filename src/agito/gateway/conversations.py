"""The conversations of one attempt: requests in, answers out, within the attempt's limits; what was sampled
stays on the token tree.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace

import anyio

from agito.errors import RequestRefused, WorkerDied
from agito.gateway.api_request import AUTO, NEVER, REQUIRED, Answer, Ask, Refused
from agito.gateway.tree import Line, Place, TokenTree
from agito.gateway.turns import SampledTurn, TurnThinking
from agito.protocols import Agent, AsksEffort
from agito.render.chat_effort import ChatBlocks
from agito.render.effort import Blocks
from agito.render.messages import Conversing, Message, Said, Speaker, ToolUse, with_tool_names
from agito.sampling.thinking_budget import Stretches
from agito.types import (
    Channel,
    Effort,
    FinishReason,
    Json,
    Limits,
    Segment,
    TerminationReason,
    TokenSource,
    ToolSpec,
    Turn,
)

_PIECE = 8  # tokens between two looks at a stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which an agent is asked. `limits` None: those of its engine alone. `overrides`: sampling is as
    the agent's specification says, whatever a client asks for, and an answer comes in one piece. `most_rows`
    may rest between two requests. `compact`: calls' arguments are answered without spaces, for clients that
    send them back so.
    """

    limits: Limits | None = None
    overrides: bool = True
    most_rows: int = 64
    compact: bool = False


class Conversations:
    """One agent's. Raises `WorkerDied` when its engine is gone, and `Refused`."""

    def __init__(
        self,
        agent: Agent,
        *,
        seed: int,
        terms: Terms,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`waiting` is entered while a client waits for the policy."""
        renderer = agent.spec.renderer
        if not isinstance(renderer, Conversing):
            lacks = "it lacks members of Conversing"
            raise TypeError(
                f"{type(renderer).__name__} cannot put a client's conversation into tokens: {lacks}"
            )
        self.agent, self._renderer, self._terms, self._waiting = agent, renderer, terms, waiting
        self.on_answer: Callable[[Line, Ask, int], None] = lambda line, ask, choice: None
        limits = terms.limits
        context = agent.engine.context if limits is None else min(limits.tokens, agent.engine.context)
        self.tree = TokenTree(agent, renderer, seed=seed, context=context)
        self._context = context
        self._turns: list[_Booked] = []
        self._over = anyio.Event()
        self._sharing = anyio.Lock()
        self.num_turns = 0  # asked for so far
        self.num_booked = 0  # turns with anything in them
        self.spent: TerminationReason | None = None  # which limit was reached
        self.died: WorkerDied | None = None

    def on_spent(self, event: anyio.Event) -> None:
        """Is set when the turns are used up, or the engine is gone: nothing more can be had here."""
        self._over = event

    def uses(self, tool: str, arguments: Mapping[str, Json], *, event: int) -> str:
        """Notes that this call is the world's event of that number, for the newest turn that asked for it,
        else the newest.

        Returns the call's arguments as they were sampled, where they were.
        """
        for at in range(len(self._turns) - 1, -1, -1):
            waiting = self._turns[at].waiting
            for use in waiting:
                if use.tool == tool and use.parsed() == arguments:
                    waiting.remove(use)
                    self._turns[at].events.append(event)
                    return use.arguments
        if self._turns:
            self._turns[-1].events.append(event)
        return ""

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return max((line.length for line in self.tree.lines), default=0)

    async def answer(
        self, ask: Ask, choice: int = 0, on_said: Callable[[Said], None] | None = None
    ) -> Answer:
        """One choice. `on_said` is shown what has been said, again and again, where the terms let an answer
        come in pieces.
        """
        self._require_turns()
        seed = None if self._terms.overrides or ask.seed is None else ask.seed + (choice << 32)
        try:
            messages = self._told(ask)
            place = self.tree.place(messages, ask.tools, session=ask.session, seed=seed, reserve=1)
            self.num_turns += 1
            with self._waiting():
                async with self._at(place), self._turn_of(ask):
                    answer = await self._sampled(place, ask, on_said)
                    self.on_answer(place.line, ask, choice)  # before anybody can go on with this line
            return answer
        except Refused as error:
            if self._terms.limits is not None and error.code == "context_length_exceeded":
                self.spent = TerminationReason.TOKENS
            raise

    def count(self, ask: Ask) -> int:
        """Tokens of a prompt as it is rendered. Raises `Refused`."""
        try:
            return len(self._renderer.conversation(with_tool_names(ask.messages), ask.tools))
        except (ValueError, RecursionError) as error:
            raise Refused(
                400, f"this cannot be put into this model's format: {error}", param="messages"
            ) from error

    def record(self, root: Line | None = None) -> tuple[tuple[Segment, ...], tuple[Turn, ...]]:
        """What was sampled, all of it or what grew from one line; turns in the order in which they were
        answered.
        """
        segments, numbers = self.tree.segments(root, role="solo", policy=self.agent.spec.policy)
        turns = tuple(
            replace(each.line.turns()[each.at], segment=numbers[each.line.number], calls=tuple(each.events))
            for each in self._turns
            if each.line.number in numbers
        )
        return segments, turns

    def places(self, root: Line) -> list[tuple[int, int, int]]:
        """Of the turns that `record` gives: the number of each one's line, its place there, and how many
        turns were booked here before it.
        """
        return [(each.line.number, each.at, each.number) for each in self._turns if each.line.root is root]

    def has_many(self, most: int) -> bool:
        """Whether it is time to `forget` all but so many lines."""
        return len(self.tree.lines) > 2 * most

    async def forget(self, most: int) -> bool:
        """All but the `most` lines that were used last, and those in use, where there are `has_many`. Whether
        there were.
        """
        if not self.has_many(most):
            return False
        kept = await self.tree.forget(most)
        self._turns = [each for each in self._turns if each.line.number in kept]
        return True

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.tree.close()

    def _require_turns(self) -> None:
        limits = self._terms.limits
        if limits is not None and self.num_turns >= limits.turns:
            self.spent = TerminationReason.TURNS
            self._over.set()
            raise Refused(429, f"this attempt's {limits.turns} turns are used up", code="insufficient_quota")
        if self._over.is_set():
            raise Refused(409, "the episode has ended", code="episode_ended")

    @asynccontextmanager
    async def _at(self, place: Place) -> AsyncGenerator[None]:
        """A request that fails or is given up ends its row: what was sampled stays, and what comes next
        begins a row of its own.
        """
        try:
            yield
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await place.line.close()
            if isinstance(error, WorkerDied):
                self.died = error
                self._over.set()
            if isinstance(error, RequestRefused):
                raise Refused(500, f"the engine gave this up: {error}", code="server_error") from error
            if isinstance(error, ValueError):
                raise Refused(503, f"the engine does not take this: {error}", may_retry=True) from error
            raise
        finally:
            self.tree.leave(place)
            with anyio.CancelScope(shield=True):
                await self.tree.close_idle(self._terms.most_rows)

    def _turn_of(self, ask: Ask) -> AbstractAsyncContextManager[object]:
        """Turns that share a budget of think tokens are sampled one by one: each finds what is left. At
        `auto` the first one, which chooses, comes before all others."""
        thinking = self._thinking(ask)
        is_shared = thinking is not None and (
            thinking.thinking.attempt_tokens is not None
            or (thinking.thinking.effort is Effort.AUTO and not self._turns)
        )
        return self._sharing if is_shared else nullcontext()

    async def _sampled(self, place: Place, ask: Ask, on_said: Callable[[Said], None] | None) -> Answer:
        capture = place.line.capture
        forced = array("i")
        if ask.choice not in (AUTO, NEVER):
            forced = self._renderer.begun("" if ask.choice == REQUIRED else ask.choice)
        thinking = self._thinking(ask, is_begun=bool(forced))
        if thinking is not None:
            capture.extend(thinking.renderer.opener)
        capture.extend(forced, TokenSource.FORCED)
        num_prompt = len(capture)
        turn = SampledTurn(place.line, hard_budget=self._room(num_prompt, ask))
        if thinking is not None:
            spent = sum(each.line.turns()[each.at].num_thought for each in self._turns)
            turn.stretches = thinking.stretches(capture, spent=spent, room=turn.hard_budget)
        try:
            said, stop, stopped = await self._drawn(turn, forced, ask, on_said)
        except BaseException:
            turn.end(FinishReason.CANCELLED, ask.tools, forced)
            self._book(turn)
            raise
        turn.end(stopped, ask.tools, forced)
        renderer = self._renderer if turn.stretches is None else turn.stretches.renderer
        channels = renderer.channels(forced + turn.ids)[len(forced) :]
        capture.label(channels)
        self._book(turn)
        said = _with_ids(said, place.line.number, num_prompt, compact=self._terms.compact)
        shown = said if ask.is_parallel or len(said.uses) < 2 else replace(said, uses=said.uses[:1])
        message = Message(
            speaker=Speaker.ASSISTANT, text=shown.text, uses=shown.uses, thinking=shown.thinking
        )
        is_cut = stopped is not FinishReason.END
        pairs = zip(turn.ids, turn.logprobs, strict=True)
        kept = [(token, at) for token, at in pairs if turn.stretches is None or not math.isnan(at)]
        self._turns[-1].waiting.extend(shown.uses)
        self.tree.answered(place, message, is_cut=is_cut, is_whole=stop is None and shown is said)
        return Answer(
            said=shown,
            finish="tool_calls" if shown.uses else "length" if is_cut and stop is None else "stop",
            stop=stop,
            ids=array("i", [token for token, _ in kept]),
            logprobs=array("f", [at for _, at in kept]),
            num_prompt=num_prompt,
            num_kept=place.num_kept,
            num_thinking=channels.count(Channel.THINK) if turn.stretches is None else turn.num_thought,
        )

    async def _drawn(
        self, turn: SampledTurn, forced: array[int], ask: Ask, on_said: Callable[[Said], None] | None
    ) -> tuple[Said, str | None, FinishReason]:
        """One turn, what it says, and the stop sequence that ended it. One token at a time where there are
        any: nothing is sampled behind one.
        """
        overrides, spec, num_read = self._terms.overrides, self.agent.spec, 0
        in_pieces, window = on_said is not None and not overrides, 4 * max(map(len, ask.stop), default=0) + 4
        temperature, top_p = self._sampling(ask)
        while True:
            left, size = turn.hard_budget - len(turn.ids), _PIECE + len(turn.ids) // _PIECE
            stopped = await turn.sample(
                1 if ask.stop else min(size, left) if in_pieces else left,
                temperature=temperature,
                top_p=top_p,
                effort=spec.thinking.effort if overrides and spec.thinking else ask.effort,
            )
            is_done = stopped is FinishReason.END or len(turn.ids) >= turn.hard_budget
            may_stop = bool(ask.stop) and any(
                stop in self._renderer.text(turn.ids[-window:]) for stop in ask.stop
            )
            if is_done or may_stop or (in_pieces and len(turn.ids) - num_read >= size):
                num_read = len(turn.ids)
                said, stop = _until(self._read(forced + turn.ids, ask, turn.stretches), ask.stop)
                if on_said is not None:
                    on_said(said)
                if is_done or stop is not None:
                    return said, stop, stopped

    def _thinking(self, ask: Ask, *, is_begun: bool = False) -> TurnThinking | None:
        """How much is thought in this turn; None where nothing is said of it, or the policy cannot be
        asked. A turn that `is_begun` with a call leaves no room for a thought."""
        spec = self.agent.spec
        thinking = spec.thinking if self._terms.overrides else ask.thinking
        if thinking is None or not isinstance(spec.renderer, AsksEffort):
            return None
        try:
            renderer = spec.renderer.asking(Effort.NONE if is_begun else thinking.effort)
        except ValueError:
            return None
        if not isinstance(renderer, Blocks):
            return None
        thinking = replace(thinking, turn_tokens=0) if is_begun else thinking
        may_choose = not self._turns and not is_begun
        return TurnThinking(renderer=renderer, thinking=thinking, may_choose=may_choose)

    def _told(self, ask: Ask) -> tuple[Message, ...]:
        """With the effort in words, where a pre-trained model is asked for one."""
        thinking = self._thinking(ask)
        if thinking is None or not isinstance(thinking.renderer, ChatBlocks):
            return ask.messages
        return thinking.renderer.told(ask.messages)

    def _read(self, ids: array[int], ask: Ask, stretches: Stretches | None) -> Said:
        renderer = self._renderer if stretches is None else stretches.renderer
        assert isinstance(renderer, Conversing | Blocks)
        try:
            return renderer.said(ids, () if ask.choice == NEVER else ask.tools)
        except Exception:  # whatever a policy can say must reach the client: as text
            return Said(text=self._text(ids))

    def _text(self, ids: array[int]) -> str:
        return self._renderer.text(ids[:-1] if ids and ids[-1] in self._renderer.stop_ids else ids)

    def _room(self, num_prompt: int, ask: Ask) -> int:
        room, limits = self._context - num_prompt, self._terms.limits
        wanted = [
            room,
            *([limits.turn_tokens] if limits else []),
            *([ask.max_tokens] if ask.max_tokens is not None else []),
        ]
        if room < 1:
            raise Refused(
                400,
                f"a context holds {self._context} tokens here, and {num_prompt} are in it",
                code="context_length_exceeded",
            )
        return min(wanted)

    def _sampling(self, ask: Ask) -> tuple[float, float]:
        spec = self.agent.spec
        if self._terms.overrides:
            return spec.temperature, spec.top_p
        return (
            spec.temperature if ask.temperature is None else ask.temperature,
            spec.top_p if ask.top_p is None else ask.top_p,
        )

    def _book(self, turn: SampledTurn) -> None:
        if turn.ids:
            self._turns.append(_Booked(turn.line, len(turn.line.turns()) - 1, self.num_booked))
            self.num_booked += 1
            turn.line.length = len(turn.line.capture)


@dataclass(slots=True)
class _Booked:
    """A turn, by its place on its line; which of its calls the world has not been asked for yet, and which
    events came of the others.
    """

    line: Line
    at: int
    number: int  # of all that were booked
    waiting: list[ToolUse] = field(default_factory=list[ToolUse])
    events: list[int] = field(default_factory=list[int])


def _until(said: Said, stops: tuple[str, ...]) -> tuple[Said, str | None]:
    """Cut at the first of the stop sequences, which is left out, as the APIs have it."""
    found = [(at, stop) for stop in stops if (at := said.text.find(stop)) >= 0]
    if not found:
        return said, None
    at, stop = min(found)
    return replace(said, text=said.text[:at]), stop


def _with_ids(said: Said, line: int, start: int, *, compact: bool) -> Said:
    """Each call with an id that no other call of these conversations has."""
    uses = tuple(
        replace(
            use,
            id=f"call_{line:06x}{start:08x}{number:04x}",
            arguments=_compact(use) if compact else use.arguments,
        )
        for number, use in enumerate(said.uses)
    )
    return replace(said, uses=uses)


def _compact(use: ToolUse) -> str:
    arguments = use.parsed()
    return (
        use.arguments
        if arguments is None
        else json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    )


def offered(tools: tuple[ToolSpec, ...], choice: str) -> None:
    """Raises `Refused` for a choice that the tools do not allow."""
    if choice in (AUTO, NEVER):
        return
    if not tools:
        raise Refused(400, "tool_choice needs tools", param="tool_choice")
    if choice != REQUIRED and choice not in {tool.name for tool in tools}:
        raise Refused(400, f"tool_choice: there is no tool {choice!r}", param="tool_choice")
