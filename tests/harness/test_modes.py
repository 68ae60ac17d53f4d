"""An attempt's choice at `auto`: its first token, decided for it or not, and nothing after it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import pytest
from tests.render.test_effort import chat, own
from tests.render.test_families import TOOLS

from agito.protocols import Row, Sampled, SampleRequest
from agito.render.effort import Blocks
from agito.sampling.capture import Capture
from agito.sampling.thinking_budget import Stretches, whole_turns
from agito.types import Call, Dialect, Effort, FinishReason, Mode, Thinking, TokenSource, Turn, span

pytestmark = pytest.mark.anyio
CALL = Call(tool="sh", arguments={"command": "ls"})


@dataclass(slots=True)
class Obeys:
    """Says the planned tokens; the first as it is asked for, else as it likes."""

    plan: list[int]
    likes: int
    context: int = 1 << 14
    asked: list[SampleRequest] = field(default_factory=list[SampleRequest])

    def open(self, seed: int) -> Row:
        return self

    async def sample(self, request: SampleRequest) -> Sampled:
        first = request.first
        self.asked.append(request)
        if len(self.asked) == 1:
            said = self.likes if first is None else first.id if first.is_wanted else self.plan[0]
            self.plan = [said, *self.plan[1:]]
        ids = self.plan[: request.max_tokens]
        stop = next((at for at, token in enumerate(ids) if token in request.stop_ids), len(ids) - 1)
        ids, self.plan = ids[: stop + 1], self.plan[stop + 1 :]
        return Sampled(
            ids=array("i", ids),
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError

    async def close(self) -> None:
        return


def renderers() -> list[Blocks]:
    """A close of one token, and one of several."""
    found = [own(Dialect.COMPACT, Effort.AUTO), chat("qwen2_5").asking(Effort.AUTO)]
    assert [len(each.closer) > 1 for each in found] == [False, True]
    return [each for each in found if isinstance(each, Blocks)]


async def turns(
    asked: Blocks, engine: Obeys, thinking: Thinking, *, num: int = 1
) -> tuple[Capture, list[Turn]]:
    capture = Capture(engine, seed=0, stop_ids=asked.stop_ids, control_ids=asked.closer)
    for _ in range(num):
        capture.extend(asked.opener)
        stretches = Stretches(capture, asked, thinking, spent=0, room=400)
        await stretches.whole(temperature=1.0, top_p=1.0, tools=TOOLS)
    return capture, [turn[0] for turn in whole_turns(capture.turns)]


def thinks(asked: Blocks) -> list[int]:
    """A thought and a call."""
    return [*asked._encode("kev mak"), *asked.action([CALL], TOOLS)]  # pyright: ignore[reportPrivateUsage]


async def test_one_that_acts_at_once_samples_the_close_and_what_is_left_of_it_is_forced() -> None:
    for asked in renderers():
        acted = [*asked.action([CALL], TOOLS)][len(asked.closer) :]
        engine = Obeys([0, *acted], likes=0)
        capture, (turn,) = await turns(asked, engine, Thinking(effort=Effort.AUTO, mode=Mode.ACT))
        assert (turn.mode, turn.is_steered, turn.num_thought) == (Mode.ACT, True, 0)
        tokens = capture.segment().tokens
        start, size = turn.start, len(asked.closer)
        assert [*tokens.ids[start:]] == [*asked.closer, *acted]
        assert tokens.kinds[start] == TokenSource.CONTROL and tokens.is_sampled[start]
        assert all(kind == TokenSource.FORCED for kind in tokens.kinds[start + 1 : start + size])
        (read,) = asked.parse(tokens.ids[start:], TOOLS)
        assert read.tool == "sh" and read.problem is None


async def test_one_that_thinks_begins_with_anything_but_a_close() -> None:
    for asked in renderers():
        engine = Obeys(thinks(asked), likes=asked.closer[0])
        _, (turn,) = await turns(asked, engine, Thinking(effort=Effort.AUTO, mode=Mode.THINK))
        assert (turn.mode, turn.is_steered) == (Mode.THINK, True) and turn.num_thought > 0
        first = engine.asked[0].first
        assert first is not None and (first.id, first.is_wanted) == (asked.closer[0], False)


async def test_a_free_choice_is_read_from_the_tokens_and_is_made_once() -> None:
    for asked in renderers():
        acted, thought = [*asked.action([CALL], TOOLS)], thinks(asked)
        for plan, mode in ((acted, Mode.ACT), (thought, Mode.THINK)):
            engine = Obeys([*plan, *thought], likes=plan[0])
            _, found = await turns(asked, engine, Thinking(effort=Effort.AUTO), num=2)
            assert [turn.mode for turn in found] == [mode, None]
            assert not any(turn.is_steered for turn in found)
            assert all(each.first is None for each in engine.asked)


async def test_only_the_first_turn_is_decided_and_only_at_auto() -> None:
    asked = renderers()[0]
    engine = Obeys([*thinks(asked), *thinks(asked)], likes=asked.closer[0])
    await turns(asked, engine, Thinking(effort=Effort.AUTO, mode=Mode.THINK), num=2)
    assert [each.first is not None for each in engine.asked] == [True, False]
    high = own(Dialect.COMPACT, Effort.HIGH)
    assert isinstance(high, Blocks)
    free = Obeys(thinks(high), likes=thinks(high)[0])
    _, (turn,) = await turns(high, free, Thinking(effort=Effort.HIGH, mode=Mode.ACT))
    assert turn.mode is None and not turn.is_steered and free.asked[0].first is None
