"""The embedded engine against plain forward passes of the same network, and its guarantees about rows, queue,
versions and bits."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from agito.models import Qwen3, Qwen3Config
from agito.protocols import Sampled, SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineRequest, EngineResponse, RowDone, RowRequest
from agito.types import FinishReason

CONFIG = Qwen3Config(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=256,
)
TOLERANCE = 1e-5


def network(seed: int = 1) -> Qwen3:
    """Random, with a distribution far from uniform."""
    model = Qwen3(CONFIG, seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3.0)
    return model


pytestmark = pytest.mark.usefixtures("kind")
new_engine: Callable[..., EmbeddedEngine] = EmbeddedEngine  # until `kind` gives another


def request(key: int, extend: Iterable[int], *, seed: int | None = None, **how: Any) -> RowRequest:
    how = {"max_tokens": 5, "stop_ids": ()} | how
    return RowRequest(
        key=key, seed=key if seed is None else seed, request=SampleRequest(extend=array("i", extend), **how)
    )


def finish(of: EmbeddedEngine, *requests: RowRequest, steps: int = 4, **more: Any) -> dict[int, RowDone]:
    """Advances until nothing is left to do."""
    answer = of.advance(EngineRequest(requests=requests, steps=steps, **more))
    done = list(answer.done)
    while answer.live:
        answer = of.advance(EngineRequest(steps=steps))
        done += answer.done
    return {row.key: row for row in done}


def sampled(done: RowDone) -> Sampled:
    assert done.sampled is not None, done.error
    return done.sampled


def reference(
    model: Qwen3, prefix: list[int], ids: Iterable[int], *, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities of `ids` after `prefix`, by one plain forward pass."""
    ids = list(ids)
    with torch.no_grad():
        logits = model(torch.tensor(prefix + ids), [len(prefix) + len(ids)])[len(prefix) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def close_to(logprobs: array[float], expected: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(logprobs), expected, atol=TOLERANCE, rtol=0)


def prompts(seed: float, count: int, longest: int = 12) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(CONFIG.vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize(("rows", "steps"), [(8, 4), (3, 1), (2, 7)])
def test_logprobs_are_those_of_a_plain_forward_pass_in_every_mixture_of_rows(rows: int, steps: int) -> None:
    """Episodes of several turns and unequal lengths that start, wait, return and end independently."""
    model, rng = network(), random.Random(rows)
    of = new_engine(model, rows=rows)
    history: dict[int, list[int]] = {}
    wanted: dict[int, RowRequest] = {}
    turns_left = {key: rng.randint(2, 4) for key in range(10)}
    ready, closed, checked = list(turns_left), [], 0
    for _ in range(400):
        asked = []
        for key in [key for key in ready if rng.random() < 0.6]:
            ready.remove(key)
            stops = tuple(rng.sample(range(CONFIG.vocab_size), rng.randint(0, 12)))
            heat, budget = rng.choice([0.7, 1.0, 1.5]), rng.randint(1, 6)
            wanted[key] = request(
                key, prompts(rng.random(), 1)[0], max_tokens=budget, stop_ids=stops, temperature=heat
            )
            asked.append(wanted[key])
        answer = of.advance(EngineRequest(requests=tuple(asked), closed=tuple(closed), steps=steps))
        closed = []
        for done in answer.done:
            one, prefix = wanted[done.key].request, history.setdefault(done.key, [])
            prefix += one.extend
            got = sampled(done)
            assert close_to(got.logprobs, reference(model, prefix, got.ids, temperature=one.temperature))
            has_stop = [token in one.stop_ids for token in got.ids]
            assert not any(has_stop[:-1])
            assert has_stop[-1] == (got.stopped is FinishReason.END)
            assert has_stop[-1] or len(got.ids) == one.max_tokens
            prefix += got.ids
            checked += 1
            turns_left[done.key] -= 1
            (ready if turns_left[done.key] else closed).append(done.key)
        if not any(turns_left.values()):
            break
    assert not any(turns_left.values())
    assert checked >= 20


def test_a_rows_tokens_are_the_same_alone_and_in_a_crowd() -> None:
    model = network()
    some = prompts(0, 12)
    crowd = finish(
        new_engine(model, rows=12), *(request(key, ids, max_tokens=12) for key, ids in enumerate(some))
    )
    queued = finish(
        new_engine(model, rows=2), *(request(key, ids, max_tokens=12) for key, ids in enumerate(some[:2]))
    )
    for key, ids in enumerate(some):
        alone = sampled(finish(new_engine(model, rows=1), request(key, ids, max_tokens=12), steps=3)[key])
        assert alone.ids == sampled(crowd[key]).ids
        assert close_to(alone.logprobs, torch.tensor(sampled(crowd[key]).logprobs))
        assert key not in queued or sampled(queued[key]).ids == alone.ids


def test_splitting_a_turn_in_two_changes_nothing() -> None:
    """Sampling is keyed by position in the row, so a turn cut by its budget continues as if uncut."""
    model = network()
    whole = sampled(finish(new_engine(model), request(0, [5, 6], max_tokens=10))[0])
    of = new_engine(model)
    first = sampled(finish(of, request(0, [5, 6], max_tokens=4))[0])
    second = sampled(finish(of, request(0, [], max_tokens=6))[0])
    assert first.ids + second.ids == whole.ids
    assert close_to(first.logprobs + second.logprobs, torch.tensor(whole.logprobs))


def test_other_seeds_draw_other_tokens() -> None:
    model = network()
    done = finish(new_engine(model, rows=8), *(request(key, [5, 6], max_tokens=10) for key in range(8)))
    assert len({sampled(row).ids.tobytes() for row in done.values()}) == 8


def test_the_same_exchanges_give_the_same_bits() -> None:
    def run() -> list[tuple[tuple[RowDone, ...], int, int, int]]:
        of, rng = new_engine(network(), rows=3), random.Random(9)
        answers: list[EngineResponse] = []
        for turn in range(4):
            asked = tuple(
                request(key, prompts(rng.random(), 1)[0], stop_ids=(1,)) for key in range(turn, turn + 4)
            )
            answers.append(of.advance(EngineRequest(requests=asked, steps=2)))
            while answers[-1].live > 1:
                answers.append(of.advance(EngineRequest(steps=2, closed=(turn,))))
            while answers[-1].live:
                answers.append(of.advance(EngineRequest(steps=3, closed=(turn,))))
        return [(answer.done, answer.live, answer.steps, answer.forwarded) for answer in answers]

    first, second = run(), run()
    assert repr(first) == repr(second)
    assert first == second
    assert sum(len(done) for done, *_ in first) >= 12


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (1.4, 0.5)])
def test_sampled_frequencies_follow_the_distribution_whose_logprob_is_reported(
    temperature: float, top_p: float
) -> None:
    model, rows, draws = network(), 64, 4096
    of = new_engine(model, rows=rows, context=8)
    counts, reported = torch.zeros(CONFIG.vocab_size), {}
    for start in range(0, draws, rows):
        keys = range(start, start + rows)
        asked = (request(key, [7, 2], max_tokens=1, temperature=temperature, top_p=top_p) for key in keys)
        for row in finish(of, *asked).values():
            counts[sampled(row).ids[0]] += 1
            reported[sampled(row).ids[0]] = sampled(row).logprobs[0]
        of.advance(EngineRequest(closed=tuple(keys)))
    expected = truncated(model, [7, 2], temperature, top_p)
    assert all(abs(logprob - math.log(expected[token])) < TOLERANCE for token, logprob in reported.items())
    assert counts[expected == 0].sum() == 0
    common = expected * draws >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]]) * draws
    chi2 = ((observed - wanted).square() / wanted.clamp(min=1e-9))[wanted > 0].sum()
    freedom = int((wanted > 0).sum()) - 1
    assert freedom >= 3
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


def truncated(model: Qwen3, ids: list[int], temperature: float, top_p: float) -> torch.Tensor:
    """Slow reference: tokens by descending probability until `top_p` is reached, renormalised."""
    with torch.no_grad():
        probs = (model(torch.tensor(ids), [len(ids)])[-1].double() / temperature).softmax(-1)
    kept, held = torch.zeros_like(probs), 0.0
    for token in sorted(range(len(probs)), key=lambda token: -float(probs[token])):
        if held >= top_p:
            break
        kept[token] = probs[token]
        held += float(probs[token])
    return kept / kept.sum()


def test_temperature_zero_takes_the_likeliest_token_beside_rows_that_sample() -> None:
    model, prompt = network(), [3, 9, 4]
    done = finish(
        new_engine(model),
        request(0, prompt, temperature=0.0),
        request(1, prompt),
        request(2, prompt, temperature=0.0, seed=77),
    )
    greedy = sampled(done[0])
    with torch.no_grad():
        ids = list(prompt)
        for _ in range(5):
            ids.append(int(model(torch.tensor(ids), [len(ids)])[-1].argmax()))
    assert list(greedy.ids) == ids[3:]
    assert greedy.ids == sampled(done[2]).ids
    assert sampled(done[1]).ids != greedy.ids
    assert close_to(greedy.logprobs, reference(model, prompt, greedy.ids))


def test_a_turn_ends_with_its_stop_token_or_at_its_budget() -> None:
    model, prompt = network(), [3, 9, 4]
    free = sampled(finish(new_engine(model), request(0, prompt, max_tokens=9))[0])
    assert (len(free.ids), free.stopped) == (9, FinishReason.LENGTH)
    for at in (0, 3, 8):
        token = free.ids[at]
        first = free.ids.index(token)
        stopped = sampled(
            finish(new_engine(model), request(0, prompt, max_tokens=9, stop_ids=(60, token, 59)))[0]
        )
        assert (stopped.ids, stopped.stopped) == (free.ids[: first + 1], FinishReason.END)
        assert stopped.logprobs == free.logprobs[: first + 1]
    other = finish(
        new_engine(model),
        request(0, prompt, max_tokens=9),
        request(1, prompt, seed=0, max_tokens=9, stop_ids=(free.ids[2],)),
    )
    assert len(sampled(other[0]).ids) == 9, "a stop token of one row is not one of its neighbour"
    assert len(sampled(other[1]).ids) == free.ids.index(free.ids[2]) + 1


def test_bf16_stays_near_the_training_path_in_bf16() -> None:
    """Not exact, because the two paths round in different places. A misplaced rounding would show as an error
    of tenths."""
    model = network().bfloat16()
    done = finish(
        new_engine(model, rows=8),
        *(request(key, ids, max_tokens=20) for key, ids in enumerate(prompts(0, 8))),
    )
    errors = [
        torch.tensor(sampled(row).logprobs) - reference(model, ids, sampled(row).ids)
        for ids, row in zip(prompts(0, 8), done.values(), strict=True)
    ]
    assert torch.cat(errors).abs().mean() < 0.03


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_logprobs_are_those_of_a_plain_forward_pass_and_repeat_bit_for_bit() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = network().cuda()

    def run() -> dict[int, RowDone]:
        of = EmbeddedEngine(model, rows=8, context=96)
        first = finish(
            of,
            *(
                request(key, ids, max_tokens=12, top_p=0.9 if key % 2 else 1.0)
                for key, ids in enumerate(prompts(0, 12)[:8])
            ),
        )
        return first | {
            key + 100: row
            for key, row in finish(
                of, *(request(key, [5, 6], max_tokens=9) for key in range(0, 8, 3))
            ).items()
        }

    done = run()
    assert repr(done) == repr(run())
    for key in range(0, 8, 2):
        ids = prompts(0, 12)[key]
        with torch.no_grad():
            logits = model(torch.tensor([*ids, *sampled(done[key]).ids]).cuda(), [len(ids) + 12])[
                len(ids) - 1 : -1
            ]
        expected = logits.log_softmax(-1).cpu().gather(1, torch.tensor(sampled(done[key]).ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(sampled(done[key]).logprobs), expected, atol=1e-4, rtol=0)


GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_rows_that_wait_while_others_decode_go_on_unharmed_to_the_last_position(device: str) -> None:
    """On a GPU, decoding covers more slots than live rows; the contents of the other slots must survive."""
    torch.backends.cuda.matmul.allow_tf32 = False
    context, rng = 48, random.Random(0)
    model = network().to(device)
    of = new_engine(model, rows=8, context=context)
    waiting = dict(enumerate(prompts(0, 8)))
    texts: dict[int, list[int]] = {key: [] for key in waiting}
    while waiting:
        keys = sorted(rng.sample(sorted(waiting), k=rng.randint(1, len(waiting))))
        for key in keys:
            texts[key] += waiting[key]
        counts = {key: rng.randint(1, context - len(texts[key])) for key in keys}
        done = finish(
            of, *(request(key, waiting[key], seed=len(texts[key]), max_tokens=counts[key]) for key in keys)
        )
        for key in keys:
            before, ids = texts[key], list(sampled(done[key]).ids)
            with torch.no_grad():
                logits = model(torch.tensor([*before, *ids], device=device), [len(before) + len(ids)])[
                    len(before) - 1 : -1
                ]
            expected = logits.log_softmax(-1).cpu().gather(1, torch.tensor(ids)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(sampled(done[key]).logprobs), expected, atol=1e-4, rtol=0)
            texts[key] = before + ids
            waiting[key] = [rng.randrange(CONFIG.vocab_size)]
            if len(texts[key]) + 1 >= context:
                del waiting[key]
