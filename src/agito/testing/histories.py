"""Requests as clients make them of what they were answered: kept, compacted, cut, reordered, branched,
retried, interleaved, hung up on.

An engine that knows under which prefix it sampled every token stands behind them. So it can be said of every
token that training would use whether the policy sampled it under exactly the prefix that it would be trained
under, once; and of every request whether the sampler was shown what the client sent, no more and no less.
"""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel

from agito.gateway import Ask, Conversations, Refused, Terms
from agito.learning.credit.segments import samples_of
from agito.protocols import Agent, AgentSpec, Row, Sampled, SampleRequest
from agito.render.messages import Message, Speaker, ToolUse
from agito.testing.fakes import TOOLS, FakeEnvironment
from agito.testing.renderers import END, ByteRenderer
from agito.types import AttemptId, Dialect, FinishReason, Segment, TerminationReason, Trajectory, Turn, span

_SAID = (
    '{"tool": "open", "arguments": {"box": "%d"}}',
    '{"tool": "submit", "arguments": {"box": "%d"}}',
    "box %d; then another",
    "done: %d",
    '{"tool": "open", "arguments": {"box": "%d"}}\n{"tool": "open", "arguments": {"box": "7"}}',
    '{"tool": "open", "argu',
    "",
)


class KnowingEngine:
    """Says something short. `sampled` counts tokens by the hash of their prefix, themselves and their
    log-probability.
    """

    context = 1 << 14

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sampled: Counter[tuple[int, int, float]] = Counter()
        self.shown: list[
            array[int]
        ] = []  # what stood in a row when it was asked, and not only to go on with a turn
        self.version = 0

    def open(self, seed: int) -> Row:
        return _KnowingRow(self, array("i"))


class _KnowingRow:
    def __init__(self, engine: KnowingEngine, ids: array[int]) -> None:
        self._engine, self._ids, self._hash, self._says, self._is_open = (
            engine,
            ids,
            _hash(ids),
            list[int](),
            True,
        )

    async def sample(self, request: SampleRequest) -> Sampled:
        engine = self._engine
        assert self._is_open, "a row that was given up is not asked again"
        for _ in range(engine.rng.randrange(3)):
            await anyio.lowlevel.checkpoint()
        if request.extend:
            self._ids.extend(request.extend)
            self._hash = _hash(request.extend, self._hash)
            self._says = [
                *(engine.rng.choice(_SAID).replace("%d", str(engine.rng.randrange(50)))).encode(),
                END,
            ]
            engine.shown.append(self._ids[:])
        said, self._says = self._says[: request.max_tokens], self._says[request.max_tokens :]
        logprobs = array("f", [-engine.rng.random() for _ in said])
        for token, logprob in zip(said, logprobs, strict=True):
            engine.sampled[self._hash, token, logprob] += 1
            self._hash = _hash((token,), self._hash)
        self._ids.extend(said)
        engine.version += engine.rng.random() < 0.1
        stopped = FinishReason.END if said[-1] == END else FinishReason.LENGTH
        return Sampled(
            ids=array("i", said),
            logprobs=logprobs,
            stopped=stopped,
            versions=span(engine.version, len(request.extend) + len(said)),
        )

    def branch(self, seed: int) -> Row:
        return _KnowingRow(self._engine, self._ids[:])

    async def close(self) -> None:
        self._is_open = False


def _hash(ids: Sequence[int], start: int = 0) -> int:
    for token in ids:
        start = hash((start, token))
    return start


@dataclass
class Client:
    """Conversations of one attempt, as a client keeps them, and what it does with them."""

    conversations: Conversations
    engine: KnowingEngine
    rng: random.Random
    histories: list[list[Message]] = field(default_factory=list[list[Message]])
    violations: list[str] = field(default_factory=list[str])
    num_requests: int = 0

    async def step(self) -> None:
        """One request, or several side by side."""
        rng = self.rng
        if not self.histories or rng.random() < 0.15:  # another agent of the client's begins
            own = [Message(speaker=Speaker.ASSISTANT, text="Got it."), _user(rng)]  # an example, a greeting
            self.histories.append([*_system(rng), _user(rng), *(own if rng.random() < 0.2 else [])])
        history = rng.choice(self.histories)
        kind = rng.random()
        if kind < 0.12:
            await self._side_by_side([list(history), list(history)])
        elif kind < 0.2:
            await self._side_by_side(
                [
                    self._changed(list(each))
                    for each in rng.sample(self.histories, min(2, len(self.histories)))
                ]
            )
        elif kind < 0.25:
            await self._hang_up(list(history))
        else:
            messages = self._changed(history[:])
            answer = await self._ask(messages)
            if answer is not None:
                history[:] = [*messages, answer, *_results(answer, rng)]

    async def _side_by_side(self, requests: Sequence[list[Message]]) -> None:
        async def one(messages: list[Message]) -> None:
            answer = await self._ask(messages)
            if answer is not None and self.rng.random() < 0.5:
                self.histories.append([*messages, answer, *_results(answer, self.rng)])

        async with anyio.create_task_group() as tasks:
            for messages in requests:
                tasks.start_soon(one, messages)

    async def _hang_up(self, messages: list[Message]) -> None:
        with anyio.CancelScope() as scope:

            def stop(*_: object) -> None:
                scope.cancel()

            self.num_requests += 1
            try:
                await self.conversations.answer(self._wish(messages), 0, stop)
            except Refused:
                return

    async def _ask(self, messages: list[Message]) -> Message | None:
        self.num_requests += 1
        wish = self._wish(messages)
        before = len(self.engine.shown)
        try:
            answer = await self.conversations.answer(wish)
        except Refused:
            return None
        self._require_shown(wish, before)
        return Message(speaker=Speaker.ASSISTANT, text=answer.said.text, uses=answer.said.uses)

    def _wish(self, messages: list[Message]) -> Ask:
        rng = self.rng
        return Ask(
            model="",
            messages=tuple(messages),
            tools=TOOLS,
            stop=(";",) if rng.random() < 0.15 else (),
            max_tokens=rng.choice((3, 9)) if rng.random() < 0.15 else None,
            is_parallel=rng.random() < 0.8,
            choice=rng.choice(("required", "submit")) if rng.random() < 0.1 else "auto",
        )

    def _require_shown(self, wish: Ask, before: int) -> None:
        """The sampler was shown the client's messages, rendered from nothing, and what the client forced."""
        renderer = self.conversations.agent.spec.renderer
        assert isinstance(renderer, ByteRenderer)
        forced = (
            renderer.begun("" if wish.choice == "required" else wish.choice)
            if wish.choice != "auto"
            else array("i")
        )
        if renderer.conversation(wish.messages, wish.tools) + forced not in self.engine.shown[before:]:
            self.violations.append(f"the sampler was not shown what the client sent: {wish.messages}")

    def _changed(self, messages: list[Message]) -> list[Message]:
        changes: tuple[Callable[[list[Message], random.Random], None], ...] = (
            _compact,
            _dump_anew,
            _drop,
            _cut,
            _reorder,
            _summarise,
            _edit,
            _rename_ids,
            _insert,
            _repeat,
        )
        if self.rng.random() < 0.45:
            self.rng.choice(changes)(messages, self.rng)
        return messages or [_user(self.rng)]


def _system(rng: random.Random) -> list[Message]:
    return (
        [Message(speaker=Speaker.SYSTEM, text=rng.choice(("be brief", "you are a sub-agent")))]
        if rng.random() < 0.5
        else []
    )


def _user(rng: random.Random) -> Message:
    return Message(
        speaker=Speaker.USER, text=rng.choice(("find the coin", "go on", f"look into {rng.randrange(9)}"))
    )


def _results(answer: Message, rng: random.Random) -> list[Message]:
    found = [
        Message(speaker=Speaker.TOOL, text=rng.choice(("empty", "coin")), answers=use.id)
        for use in answer.uses
    ]
    return found or [_user(rng)]


def _each_use(messages: list[Message], change: Callable[[ToolUse], ToolUse]) -> None:
    messages[:] = [replace(message, uses=tuple(map(change, message.uses))) for message in messages]


def _dumped(use: ToolUse, separators: tuple[str, str], indent: int | None = None) -> ToolUse:
    found = use.parsed()
    return (
        use
        if found is None
        else replace(use, arguments=json.dumps(found, separators=separators, indent=indent))
    )


def _compact(messages: list[Message], rng: random.Random) -> None:
    _each_use(messages, lambda use: _dumped(use, (",", ":")))


def _dump_anew(messages: list[Message], rng: random.Random) -> None:
    _each_use(messages, lambda use: _dumped(use, (", ", ": "), rng.choice((None, 2))))


def _drop(messages: list[Message], rng: random.Random) -> None:
    del messages[rng.randrange(len(messages))]


def _cut(messages: list[Message], rng: random.Random) -> None:
    del messages[rng.randrange(len(messages)) :]
    messages.append(_user(rng))


def _reorder(messages: list[Message], rng: random.Random) -> None:
    rng.shuffle(messages)


def _summarise(messages: list[Message], rng: random.Random) -> None:
    messages[:] = [Message(speaker=Speaker.USER, text=f"so far: {len(messages)} messages"), *messages[-2:]]


def _edit(messages: list[Message], rng: random.Random) -> None:
    at = rng.randrange(len(messages))
    messages[at] = replace(messages[at], text=messages[at].text + rng.choice((" ", "!", "Calling tools:")))


def _rename_ids(messages: list[Message], rng: random.Random) -> None:
    _each_use(messages, lambda use: replace(use, id=f"call_{rng.randrange(1000)}"))


def _insert(messages: list[Message], rng: random.Random) -> None:
    invented = Message(speaker=Speaker.ASSISTANT, text="I never said this")
    messages.insert(rng.randrange(len(messages) + 1), invented)


def _repeat(messages: list[Message], rng: random.Random) -> None:
    messages[:] = [*messages, *messages[-2:]]


async def attempt(seed: int, num_steps: int) -> Client:
    """One attempt of a client that does all of this; its violations are in the answer."""
    rng = random.Random(seed)
    engine = KnowingEngine(rng)
    agent = Agent(spec=AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)), engine=engine)
    terms = Terms(overrides=rng.random() < 0.5, most_rows=rng.choice((1, 3, 64)))
    client = Client(Conversations(agent, seed=seed, terms=terms), engine, rng)
    for _ in range(num_steps):
        await client.step()
    client.violations += violations(client.conversations, engine)
    await client.conversations.aclose()
    return client


def violations(conversations: Conversations, engine: KnowingEngine) -> list[str]:
    """As `violations_in`, of all that was sampled so far."""
    return violations_in(*conversations.record(), engine)


def violations_in(segments: Sequence[Segment], turns: Sequence[Turn], engine: KnowingEngine) -> list[str]:
    """Of: every trained token was sampled under exactly the prefix that it is trained under, and every
    sampled one is trained once.
    """
    task, _ = FakeEnvironment().task(split="train", index=0, seed=0)
    trajectory = Trajectory(
        attempt=AttemptId(group=0, slot=0),
        task=task,
        segments=tuple(segments),
        turns=tuple(turns),
        events=(),
        end=TerminationReason.ABANDONED,
    )
    left, found = Counter(engine.sampled), list[str]()
    for segment in segments:
        parent = None if segment.parent is None else segments[segment.parent]
        if (
            parent is not None
            and parent.tokens.ids[: segment.prefix_len] != segment.tokens.ids[: segment.prefix_len]
        ):
            found.append(f"segment {segment.id} does not begin as its parent, segment {segment.parent}")
    for sample in samples_of(trajectory, 1.0):
        prefix = 0
        for position, (token, logprob, is_trained) in enumerate(
            zip(sample.ids, sample.logprobs, sample.trainable, strict=True)
        ):
            if is_trained:
                left[prefix, token, logprob] -= 1
                if left[prefix, token, logprob] < 0:
                    where = f"segment {sample.segment}, position {position}"
                    found.append(f"{where}: trained, and not sampled under this prefix, or twice")
            prefix = hash((prefix, token))
    found += ["sampled, and not trained"] * sum(count for count in left.values() if count > 0)
    covered = sum(turn.stop - turn.start for turn in turns)
    if covered != sum(engine.sampled.values()):
        found.append(f"the turns cover {covered} tokens, and {sum(engine.sampled.values())} were sampled")
    return found
