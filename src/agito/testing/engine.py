"""What every engine must keep: exact log-probabilities, enforced limits, and randomness that is a function of the seed."""

from __future__ import annotations

import math
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio

from agito.protocols import Engine, Row, Sampled, SampleRequest
from agito.testing.contract import Contract, require, rule
from agito.types import Stop


class EngineContract(Contract):
    """Subclass it, override `make` and `vocab_size`, and run pytest.

    The model must be undecided: rules about randomness compare 24 sampled tokens, which a confident model would repeat.
    Rules that compare log-probabilities between different batches allow `tolerance` nats.
    """

    vocab_size: int = 0
    prompt: Sequence[int] = (1, 2, 3)
    tolerance: float = 1e-4
    num_tokens: int = 24

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Engine]:
        """A fresh engine with the same weights every time, closed at the end of the block."""
        raise NotImplementedError("override make() to say which engine is tested")
        yield

    def ask(
        self,
        extend: Sequence[int] | None = None,
        *,
        most: int | None = None,
        stop: Sequence[int] = (),
        heat: float = 1.0,
        top_p: float = 1.0,
    ) -> SampleRequest:
        return SampleRequest(
            extend=array("i", self.prompt if extend is None else extend),
            max_tokens=most or self.num_tokens,
            stop_ids=tuple(stop),
            temperature=heat,
            top_p=top_p,
        )

    async def once(self, engine: Engine, request: SampleRequest, *, seed: int = 1) -> Sampled:
        """One request on a row of its own."""
        row = engine.open(seed)
        try:
            return await row.sample(request)
        finally:
            await row.close()

    @rule("report log-softmax(logits / temperature) of each sampled token, in natural log, as it was sampled")
    async def test_log_probabilities_are_finite_and_there_is_one_for_each_token(self) -> None:
        async with self.make() as engine:
            for heat in (0.0, 0.7, 1.0, 1.5):
                sampled = await self.once(engine, self.ask(heat=heat))
                require(len(sampled.logprobs) == len(sampled.ids), f"{len(sampled.ids)} tokens, {len(sampled.logprobs)} log-probabilities")
                wrong = [x for x in sampled.logprobs if not (math.isfinite(x) and x <= 1e-6)]
                require(not wrong, f"at temperature {heat}: log-probabilities {wrong[:3]}")
                outside = [token for token in sampled.ids if not 0 <= token < self.vocab_size]
                require(not outside, f"the ids {outside[:3]} are outside a vocabulary of {self.vocab_size}")

    @rule("count sampled tokens, not the prompt, and stop at `max_tokens` exactly, with Stop.LENGTH")
    async def test_max_tokens_is_enforced(self) -> None:
        async with self.make() as engine:
            for most in (1, 2, 7):
                sampled = await self.once(engine, self.ask(most=most))
                require(len(sampled.ids) == most, f"max_tokens={most} gave {len(sampled.ids)} tokens")
                require(sampled.stopped is Stop.LENGTH, f"max_tokens={most} was reached, but stopped={sampled.stopped}")

    @rule("refuse it with ValueError before anything is sampled")
    async def test_fewer_than_one_token_is_refused(self) -> None:
        async with self.make() as engine:
            refused = await refuses(engine.open(1), self.ask(most=-1))
            require(refused, "max_tokens=-1 was accepted")

    @rule("end the turn at the first stop id, keep it as the last sampled token, and say Stop.END")
    async def test_sampling_ends_with_the_first_stop_token(self) -> None:
        async with self.make() as engine:
            free = await self.once(engine, self.ask())
            stop = free.ids[self.num_tokens // 2]
            first = free.ids.index(stop)
            sampled = await self.once(engine, self.ask(stop=[stop]))
            require(list(sampled.ids) == list(free.ids[: first + 1]), f"with stop id {stop}, {list(free.ids)} became {list(sampled.ids)}")
            require(sampled.stopped is Stop.END, f"the last token is a stop id, but stopped={sampled.stopped}")
            rest = await self.once(engine, self.ask(stop=range(self.vocab_size)))
            require(len(rest.ids) == 1, f"where every token stops, {len(rest.ids)} were sampled")

    @rule("key the random stream by (seed, position) and by nothing else: no global generator, no clock")
    async def test_the_same_seed_gives_the_same_tokens(self) -> None:
        async with self.make() as first, self.make() as second:
            one, two, again = [await self.once(engine, self.ask()) for engine in (first, second, second)]
            require(one.ids == two.ids == again.ids, f"seed 1 gave {list(one.ids)}, {list(two.ids)} and {list(again.ids)}")
            require(one.logprobs == two.logprobs, "the same tokens came with other log-probabilities")

    @rule("let the seed reach the random stream")
    async def test_different_seeds_give_different_tokens(self) -> None:
        async with self.make() as engine:
            outcomes = {tuple((await self.once(engine, self.ask(), seed=seed)).ids) for seed in range(4)}
            require(len(outcomes) > 1, "four seeds gave the same tokens")

    @rule("at temperature 0 take the most likely token, whatever the seed")
    async def test_temperature_zero_is_greedy(self) -> None:
        async with self.make() as engine:
            one, two = [await self.once(engine, self.ask(heat=0.0), seed=seed) for seed in (1, 2)]
            require(one.ids == two.ids, f"two seeds gave {list(one.ids)} and {list(two.ids)}")
            tiny = await self.once(engine, self.ask(top_p=1e-6), seed=3)
            require(tiny.ids == one.ids, "top_p near 0 keeps the most likely token alone, so it must be greedy too")

    @rule("keep the row's state between requests: what was extended and sampled is its context, and nothing else is")
    async def test_a_turn_goes_on_from_the_turns_before_it(self) -> None:
        async with self.make() as engine:
            row = engine.open(1)
            first = await row.sample(self.ask(most=4, heat=0.0))
            second = await row.sample(self.ask((2, 1), most=4, heat=0.0))
            await row.close()
            whole = [*self.prompt, *first.ids, 2, 1]
            fresh = await self.once(engine, self.ask(whole, most=4, heat=0.0))
            require(second.ids == fresh.ids, f"in two turns: {list(second.ids)}; in one: {list(fresh.ids)}")
            require(close(second, fresh, self.tolerance), "a row that was kept gives other log-probabilities than a fresh one")

    @rule("raise ValueError when extend + max_tokens outgrow `context`; never truncate")
    async def test_a_row_that_would_outgrow_the_context_is_refused(self) -> None:
        async with self.make() as engine:
            require(engine.context > 0, f"context={engine.context}")
            longer = [1] * (engine.context + 1)
            require(
                await refuses(engine.open(1), self.ask(longer, most=1)),
                f"{len(longer)} tokens were accepted in a context of {engine.context}",
            )
            exact = await self.once(engine, self.ask([1] * (engine.context - 1), most=1))
            require(len(exact.ids) == 1, f"a row of exactly {engine.context} tokens gave {len(exact.ids)}")

    @rule("cover the extended and the sampled positions with spans, contiguous, from 0")
    async def test_every_position_carries_a_version(self) -> None:
        async with self.make() as engine:
            row = engine.open(1)
            for extend in (self.prompt, (1, 1)):
                sampled = await row.sample(self.ask(extend, most=5))
                ends = [0, *(span.stop for span in sampled.versions)]
                require([span.start for span in sampled.versions] == ends[:-1], f"the spans {sampled.versions} leave a gap or overlap")
                require(ends[-1] == len(extend) + len(sampled.ids), f"the spans end at {ends[-1]} of {len(extend) + len(sampled.ids)}")
            await row.close()

    @rule("copy the row's whole state; give the branch its own random stream, keyed by its seed and the position")
    async def test_a_branch_shares_the_past_and_not_the_future(self) -> None:
        async with self.make() as engine:
            row = engine.open(5)
            await row.sample(self.ask(most=4))
            same, other = row.branch(5), row.branch(6)
            results = [await each.sample(self.ask((2,))) for each in (same, other, row)]
            for each in (same, other, row):
                await each.close()
            require(results[0].ids == results[2].ids, "a branch with the row's own seed goes on differently")
            require(close(results[0], results[2], self.tolerance), "a branch gives other log-probabilities than its row")
            require(results[1].ids != results[2].ids, "a branch with another seed goes on the same")

    @rule("keep rows apart: a row's tokens depend on its seed and its own past, not on its neighbours")
    async def test_rows_side_by_side_do_not_touch_one_another(self) -> None:
        async with self.make() as engine, self.make() as alone:
            prompts = [[*self.prompt], [2] * 9, [3, 1], [1] * 5]
            apart = [await self.once(alone, self.ask(prompt), seed=seed) for seed, prompt in enumerate(prompts)]
            together: dict[int, Sampled] = {}

            async def run(seed: int, prompt: list[int]) -> None:
                together[seed] = await self.once(engine, self.ask(prompt), seed=seed)

            async with anyio.create_task_group() as tasks:
                for seed, prompt in reversed([*enumerate(prompts)]):
                    tasks.start_soon(run, seed, prompt)
            for seed, expected in enumerate(apart):
                require(together[seed].ids == expected.ids, f"row {seed} samples other tokens beside its neighbours")
                require(close(together[seed], expected, self.tolerance), f"row {seed} has other log-probabilities beside its neighbours")

    @rule("let close do nothing the second time, on a row that never sampled too")
    async def test_closing_a_row_is_idempotent(self) -> None:
        async with self.make() as engine:
            for request in (None, self.ask(most=1)):
                row = engine.open(1)
                if request:
                    await row.sample(request)
                for _ in range(2):
                    await row.close()


def close(one: Sampled, two: Sampled, tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one.logprobs, two.logprobs, strict=True))


async def refuses(row: Row, request: SampleRequest) -> bool:
    try:
        await row.sample(request)
    except ValueError:
        return True
    finally:
        await row.close()
    return False
