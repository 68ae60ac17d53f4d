"""The contract of engines: exact log-probabilities, enforced limits, and randomness that depends only on the
seed.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.lowlevel

from agito.protocols import Engine, Row, Sampled, SampleRequest
from agito.testing.contract import Contract, Unmet, require, rule
from agito.testing.random_rows import RandomUser
from agito.types import FinishReason


class EngineContract(Contract):
    """Subclass it, override `make` and `vocab_size`, and run pytest.

    The model must be undecided: rules about randomness compare 24 sampled tokens, which a confident model
    would repeat. Rules that compare log-probabilities between different batches allow `tolerance` nats.
    """

    vocab_size: int = 0
    prompt: Sequence[int] = (1, 2, 3)
    tolerance: float = 1e-4
    num_tokens: int = 24
    # rows open at once; more than the tested engine has room for, if it has a limit
    num_rows: int = 12
    num_interleavings: int = 8

    def make(self) -> AbstractAsyncContextManager[Engine]:
        """A fresh engine with the same weights every time, closed at the end of the block."""
        raise NotImplementedError("override make() to say which engine is tested")

    def num_held(self, engine: Engine) -> int | None:
        """How many rows it holds; None if that cannot be counted, so leaks are not checked."""
        return None

    async def require_nothing_left(self, engine: Engine, after: str) -> None:
        """Checks that every row has been closed."""
        row = engine.open(1)
        await row.sample(self.ask(most=1))  # an engine may learn of closed rows only with the next request
        held = self.num_held(engine)
        await row.close()
        require(held in (None, 1), f"{after}: {held} rows are held where one is open")

    def ask(
        self,
        extend: Sequence[int] | None = None,
        *,
        most: int | None = None,
        stop: Sequence[int] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> SampleRequest:
        return SampleRequest(
            extend=array("i", self.prompt if extend is None else extend),
            max_tokens=most or self.num_tokens,
            stop_ids=tuple(stop),
            temperature=temperature,
            top_p=top_p,
        )

    async def once(self, engine: Engine, request: SampleRequest, *, seed: int = 1) -> Sampled:
        """One request on its own row."""
        row = engine.open(seed)
        try:
            return await row.sample(request)
        finally:
            await row.close()

    @rule("report log-softmax(logits / temperature) of each sampled token, in natural log, as it was sampled")
    async def test_log_probabilities_are_finite_and_there_is_one_for_each_token(self) -> None:
        async with self.make() as engine:
            for temperature in (0.0, 0.7, 1.0, 1.5):
                sampled = await self.once(engine, self.ask(temperature=temperature))
                require(
                    len(sampled.logprobs) == len(sampled.ids),
                    f"{len(sampled.ids)} tokens, {len(sampled.logprobs)} log-probabilities",
                )
                wrong = [x for x in sampled.logprobs if not (math.isfinite(x) and x <= 1e-6)]
                require(not wrong, f"at temperature {temperature}: log-probabilities {wrong[:3]}")
                outside = [token for token in sampled.ids if not 0 <= token < self.vocab_size]
                require(not outside, f"the ids {outside[:3]} are outside a vocabulary of {self.vocab_size}")

    @rule("count sampled tokens, not the prompt, and stop at `max_tokens` exactly, with FinishReason.LENGTH")
    async def test_max_tokens_is_enforced(self) -> None:
        async with self.make() as engine:
            for most in (1, 2, 7):
                sampled = await self.once(engine, self.ask(most=most))
                require(len(sampled.ids) == most, f"max_tokens={most} gave {len(sampled.ids)} tokens")
                require(
                    sampled.stopped is FinishReason.LENGTH,
                    f"max_tokens={most} was reached, but stopped={sampled.stopped}",
                )

    @rule("refuse it with ValueError before anything is sampled")
    async def test_fewer_than_one_token_is_refused(self) -> None:
        async with self.make() as engine:
            refused = await refuses(engine.open(1), self.ask(most=-1))
            require(refused, "max_tokens=-1 was accepted")

    @rule("end the turn at the first stop id, keep it as the last sampled token, and say FinishReason.END")
    async def test_sampling_ends_with_the_first_stop_token(self) -> None:
        async with self.make() as engine:
            free = await self.once(engine, self.ask())
            stop = free.ids[self.num_tokens // 2]
            first = free.ids.index(stop)
            sampled = await self.once(engine, self.ask(stop=[stop]))
            require(
                list(sampled.ids) == list(free.ids[: first + 1]),
                f"with stop id {stop}, {list(free.ids)} became {list(sampled.ids)}",
            )
            require(
                sampled.stopped is FinishReason.END,
                f"the last token is a stop id, but stopped={sampled.stopped}",
            )
            rest = await self.once(engine, self.ask(stop=range(self.vocab_size)))
            require(len(rest.ids) == 1, f"where every token stops, {len(rest.ids)} were sampled")

    @rule("key the random stream by (seed, position) and by nothing else: no global generator, no clock")
    async def test_the_same_seed_gives_the_same_tokens(self) -> None:
        async with self.make() as first, self.make() as second:
            one, two, again = [await self.once(engine, self.ask()) for engine in (first, second, second)]
            require(
                one.ids == two.ids == again.ids,
                f"seed 1 gave {list(one.ids)}, {list(two.ids)} and {list(again.ids)}",
            )
            require(one.logprobs == two.logprobs, "the same tokens came with other log-probabilities")

    @rule("let the seed reach the random stream")
    async def test_different_seeds_give_different_tokens(self) -> None:
        async with self.make() as engine:
            outcomes = {tuple((await self.once(engine, self.ask(), seed=seed)).ids) for seed in range(4)}
            require(len(outcomes) > 1, "four seeds gave the same tokens")

    @rule("at temperature 0 take the most likely token, whatever the seed")
    async def test_temperature_zero_is_greedy(self) -> None:
        async with self.make() as engine:
            one, two = [await self.once(engine, self.ask(temperature=0.0), seed=seed) for seed in (1, 2)]
            require(one.ids == two.ids, f"two seeds gave {list(one.ids)} and {list(two.ids)}")
            tiny = await self.once(engine, self.ask(top_p=1e-6), seed=3)
            require(
                tiny.ids == one.ids,
                "top_p near 0 keeps the most likely token alone, so it must be greedy too",
            )

    @rule(
        "keep the row's state between requests: what was extended and sampled is its context, and nothing "
        "else is"
    )
    async def test_a_turn_goes_on_from_the_turns_before_it(self) -> None:
        async with self.make() as engine:
            row = engine.open(1)
            first = await row.sample(self.ask(most=4, temperature=0.0))
            second = await row.sample(self.ask((2, 1), most=4, temperature=0.0))
            await row.close()
            whole = [*self.prompt, *first.ids, 2, 1]
            fresh = await self.once(engine, self.ask(whole, most=4, temperature=0.0))
            require(second.ids == fresh.ids, f"in two turns: {list(second.ids)}; in one: {list(fresh.ids)}")
            require(
                close(second, fresh, self.tolerance),
                "a row that was kept gives other log-probabilities than a fresh one",
            )

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
                require(
                    [span.start for span in sampled.versions] == ends[:-1],
                    f"the spans {sampled.versions} leave a gap or overlap",
                )
                require(
                    ends[-1] == len(extend) + len(sampled.ids),
                    f"the spans end at {ends[-1]} of {len(extend) + len(sampled.ids)}",
                )
            await row.close()

    @rule(
        "copy the row's whole state; give the branch its own random stream, keyed by its seed and the "
        "position"
    )
    async def test_a_branch_shares_the_past_and_not_the_future(self) -> None:
        async with self.make() as engine:
            row = engine.open(5)
            await row.sample(self.ask(most=4))
            same, other = row.branch(5), row.branch(6)
            results = [await each.sample(self.ask((2,))) for each in (same, other, row)]
            for each in (same, other, row):
                await each.close()
            require(results[0].ids == results[2].ids, "a branch with the row's own seed goes on differently")
            require(
                close(results[0], results[2], self.tolerance),
                "a branch gives other log-probabilities than its row",
            )
            require(results[1].ids != results[2].ids, "a branch with another seed goes on the same")

    @rule("keep rows apart: a row's tokens depend on its seed and its own past, not on its neighbours")
    async def test_rows_side_by_side_do_not_touch_one_another(self) -> None:
        async with self.make() as engine, self.make() as alone:
            prompts = [[*self.prompt], [2] * 9, [3, 1], [1] * 5]
            apart = [
                await self.once(alone, self.ask(prompt), seed=seed) for seed, prompt in enumerate(prompts)
            ]
            together: dict[int, Sampled] = {}

            async def run(seed: int, prompt: list[int]) -> None:
                together[seed] = await self.once(engine, self.ask(prompt), seed=seed)

            async with anyio.create_task_group() as tasks:
                for seed, prompt in reversed([*enumerate(prompts)]):
                    tasks.start_soon(run, seed, prompt)
            for seed, expected in enumerate(apart):
                require(
                    together[seed].ids == expected.ids,
                    f"row {seed} samples other tokens beside its neighbours",
                )
                require(
                    close(together[seed], expected, self.tolerance),
                    f"row {seed} has other log-probabilities beside its neighbours",
                )

    @rule("let close do nothing the second time, on a row that never sampled too")
    async def test_closing_a_row_is_idempotent(self) -> None:
        async with self.make() as engine:
            for request in (None, self.ask(most=1)):
                row = engine.open(1)
                if request:
                    await row.sample(request)
                for _ in range(2):
                    await row.close()

    @rule("refuse it with ValueError, for a branch too: what a closed row held is gone")
    async def test_a_closed_row_is_at_an_end(self) -> None:
        async with self.make() as engine:
            row = engine.open(1)
            await row.sample(self.ask(most=2))
            await row.close()
            require(await refuses(row, self.ask(most=2)), "a closed row was sampled from")
            require(branch_is_refused(row), "a closed row was branched")

    @rule(
        "raise ValueError for whoever branches a row, or asks it again, while it samples, and answer all "
        "others as if it had not happened"
    )
    async def test_a_row_that_samples_is_neither_branched_nor_asked_again_and_nobody_else_notices(
        self,
    ) -> None:
        async with self.make() as engine, self.make() as alone:
            expected = [await self.once(alone, self.ask(), seed=seed) for seed in range(2)]
            rows, got, refused = [engine.open(seed) for seed in range(2)], dict[int, Sampled](), list[bool]()

            async def run(number: int) -> None:
                got[number] = await rows[number].sample(self.ask())

            async with anyio.create_task_group() as tasks:
                for number in range(2):
                    tasks.start_soon(run, number)
                await anyio.lowlevel.checkpoint()
                if 0 not in got:
                    refused += [branch_is_refused(rows[0]), await is_refused(rows[0], self.ask(most=1))]
            for row in rows:
                await row.close()
            require(
                all(refused), f"while it sampled, a row was branched, or asked again (refused: {refused})"
            )
            require(
                [got[0].ids, got[1].ids] == [each.ids for each in expected],
                "the rows sampled other tokens for it",
            )

    @rule("make a branch of a row that has not sampled yet a new row")
    async def test_a_row_that_is_still_empty_can_be_branched(self) -> None:
        async with self.make() as engine:
            row = engine.open(1)
            try:
                twin = row.branch(1)
            except ValueError as error:
                raise Unmet(f"it was refused: {error}") from None
            one, two = await row.sample(self.ask()), await twin.sample(self.ask())
            for each in (row, twin):
                await each.close()
            require(one.ids == two.ids, "the branch of an empty row, under the same seed, is another row")

    @rule(
        "let rows that rest make room: put aside what was computed for them, and take it up again when "
        "they are asked"
    )
    async def test_any_number_of_rows_may_rest_while_another_is_asked(self) -> None:
        async with self.make() as engine, self.make() as alone:
            rows = [engine.open(seed) for seed in range(self.num_rows)]
            for _ in range(2):
                for row in rows:
                    await row.sample(self.ask(most=2))
            for seed, row in enumerate(rows):
                expected = alone.open(seed)
                for _ in range(2):
                    await expected.sample(self.ask(most=2))
                last, other = [await each.sample(self.ask(most=4)) for each in (row, expected)]
                await expected.close()
                require(last.ids == other.ids, f"row {seed} of {len(rows)} goes on otherwise than alone")
                require(
                    close(last, other, self.tolerance),
                    f"row {seed} of {len(rows)} has other log-probabilities than alone",
                )
            for row in rows:
                await row.close()
            await self.require_nothing_left(engine, f"{len(rows)} rows were closed")

    @rule(
        "keep each row's past apart from the order in which rows are branched, closed and given up, and "
        "hold nothing for a closed one"
    )
    async def test_rows_are_branched_closed_and_given_up_in_any_order(self) -> None:
        for seed in range(self.num_interleavings):
            async with self.make() as engine, self.make() as alone:
                users = [RandomUser(self, engine, random.Random(f"{seed}/{number}")) for number in range(3)]
                async with anyio.create_task_group() as tasks:
                    for each in users:
                        tasks.start_soon(each.run)
                for said in (said for each in users for said in each.said):
                    again = await self.once(
                        alone, self.ask(said.past, most=len(said.sampled.ids)), seed=said.seed
                    )
                    require(
                        again.ids == said.sampled.ids,
                        f"order {seed}: {list(said.sampled.ids)} after {said.past}, alone {list(again.ids)}",
                    )
                    require(
                        close(again, said.sampled, self.tolerance),
                        f"order {seed}: other log-probabilities than alone",
                    )
                await self.require_nothing_left(engine, f"order {seed}")


def close(one: Sampled, two: Sampled, tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one.logprobs, two.logprobs, strict=True))


async def is_refused(row: Row, request: SampleRequest) -> bool:
    try:
        await row.sample(request)
    except ValueError:
        return True
    return False


async def refuses(row: Row, request: SampleRequest) -> bool:
    try:
        return await is_refused(row, request)
    finally:
        await row.close()


def branch_is_refused(row: Row) -> bool:
    try:
        row.branch(1)
    except ValueError:
        return True
    return False
