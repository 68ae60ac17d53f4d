"""The embedded engine in compiled code: precision, large vocabularies, memory of rows, threads, on a network
of another family."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from agito.models import Decoder, DecoderConfig, NativeDecoder, is_supported
from agito.protocols import Sampled, SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineRequest, RowBranch, RowRequest

CONFIG = DecoderConfig(
    vocab_size=9001,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=512,
    family="llama",
    qk_norm=False,
)
pytestmark = pytest.mark.skipif(
    not is_supported(CONFIG, torch.device("cpu"), torch.float32),
    reason="needs a C compiler (apt install gcc)",
)


def network() -> Decoder:
    """A distribution far from uniform over enough tokens for compiled sampling."""
    model = Decoder(CONFIG, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20.0)
    return model


def request(key: int, extend: Iterable[int], *, seed: int = 0, **how: Any) -> RowRequest:
    how = {"max_tokens": 9, "stop_ids": ()} | how
    return RowRequest(key=key, seed=seed, request=SampleRequest(extend=array("i", extend), **how))


def finish(of: EmbeddedEngine, *requests: RowRequest, **more: Any) -> dict[int, Sampled]:
    answer = of.advance(EngineRequest(requests=requests, steps=4, **more))
    done = list(answer.done)
    while answer.live:
        answer = of.advance(EngineRequest(steps=4))
        done += answer.done
    found: dict[int, Sampled] = {}
    for row in done:
        assert row.sampled is not None, row.error
        found[row.key] = row.sampled
    return found


def reference(
    model: Decoder, prefix: list[int], ids: Iterable[int], temperature: float = 1.0
) -> torch.Tensor:
    ids = list(ids)
    with torch.no_grad():
        logits = model(torch.tensor(prefix + ids), [len(prefix) + len(ids)])[len(prefix) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def prompts(count: int, longest: int = 90) -> list[list[int]]:
    rng = random.Random(count)
    return [rng.choices(range(CONFIG.vocab_size), k=rng.randint(1, longest)) for _ in range(count)]


def held(of: EmbeddedEngine) -> int:
    network = of._network  # pyright: ignore[reportPrivateUsage]
    assert isinstance(network, NativeDecoder)
    return network.cache_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_over_a_large_vocabulary_are_those_of_a_forward_pass_at_any_temperature(
    dtype: torch.dtype,
) -> None:
    model, bound = network(), 1e-5 if dtype == torch.float32 else 0.05
    engine, temperatures = EmbeddedEngine(model, rows=4, context=128, dtype=dtype), (1.0, 0.6, 1.0, 0.0, 1.7)
    asked = [
        request(key, ids, temperature=temperatures[key % 5], seed=key) for key, ids in enumerate(prompts(10))
    ]
    for key, sampled in finish(engine, *asked).items():
        expected = reference(model, prompts(10)[key], sampled.ids, temperatures[key % 5] or 1.0)
        assert torch.allclose(torch.tensor(sampled.logprobs), expected, atol=bound, rtol=0)


def test_a_truncated_row_over_a_large_vocabulary_is_drawn_from_the_head_of_its_distribution() -> None:
    model, ids = network(), prompts(1)[0]
    for seed in range(20):
        sampled = finish(
            EmbeddedEngine(model, rows=2, context=128), request(0, ids, seed=seed, top_p=0.3, max_tokens=1)
        )[0]
        with torch.no_grad():
            chances = model(torch.tensor(ids), [len(ids)])[-1].softmax(-1).sort(descending=True)
        head = chances.indices[: int((chances.values.cumsum(-1) < 0.3).sum()) + 1].tolist()
        assert sampled.ids[0] in head


def test_draws_over_a_large_vocabulary_follow_the_distribution() -> None:
    model, ids = network(), prompts(1)[0]
    engine = EmbeddedEngine(model, rows=64, context=128)
    counts = torch.zeros(CONFIG.vocab_size)
    for first in range(0, 1024, 64):
        asked = [request(first + at, ids, seed=first + at, max_tokens=1, temperature=3.0) for at in range(64)]
        found = finish(engine, *asked, closed=tuple(range(first - 64, first)) if first else ())
        counts.index_add_(0, torch.tensor([sampled.ids[0] for sampled in found.values()]), torch.ones(64))
    with torch.no_grad():
        expected = (model(torch.tensor(ids), [len(ids)])[-1] / 3.0).softmax(-1) * 1024
    observed, wanted = (torch.stack([part.sum() for part in each.chunk(40)]) for each in (counts, expected))
    assert ((observed - wanted) ** 2 / wanted).sum() < 39 + 4 * (2 * 39) ** 0.5


def test_closed_rows_hold_nothing_and_a_group_holds_its_prompt_once() -> None:
    engine, ids = EmbeddedEngine(network(), rows=8, context=256), prompts(1, 200)[0]
    ids = (ids * 200)[:200]
    finish(engine, request(0, ids))
    one = held(engine)
    finish(engine, *(request(key, ids, seed=key) for key in range(1, 8)))
    assert held(engine) == one + 7 * one // 4, "three pages are shared, one each is begun"
    engine.advance(EngineRequest(closed=tuple(range(8)), steps=0))
    assert held(engine) == 0
    finish(engine, request(20, ids))
    engine.drop_all()
    assert held(engine) == 0


def test_a_row_that_is_put_aside_and_branched_goes_on_twice_as_it_would_have_alone() -> None:
    model, (one, other) = network(), prompts(2)

    def play(rows: int) -> tuple[dict[int, Sampled], dict[int, Sampled]]:
        engine = EmbeddedEngine(model, rows=rows, context=256)
        finish(engine, request(0, one, seed=5))
        finish(engine, request(1, other, seed=6))  # one slot: the first row is put aside
        finish(engine, request(2, [7], seed=8), branched=(RowBranch(parent=0, child=2),))
        first = finish(engine, request(0, [8, 9], seed=5), request(1, [3], seed=6))
        last = finish(engine, request(2, [4], seed=8), request(0, [4], seed=5))
        engine.advance(EngineRequest(closed=(0, 1, 2), steps=0))
        assert held(engine) == 0
        return first, last

    assert play(1) == play(4)


def test_several_threads_sample_the_same() -> None:
    model = network()
    asked = [request(key, ids, seed=key) for key, ids in enumerate(prompts(6))]
    alone = finish(EmbeddedEngine(model, rows=4, context=128), *asked)
    assert finish(EmbeddedEngine(model, rows=4, context=128, threads=2), *asked) == alone


def test_a_chunk_of_a_large_network_is_small_and_one_of_a_small_network_as_it_was() -> None:
    small, large = (
        Decoder(config, seed=None, device="meta")
        for config in (CONFIG, DecoderConfig(vocab_size=49152, hidden_size=2880))
    )
    assert [EmbeddedEngine.chunk_of(model, torch.device("cpu")) for model in (small, large)] == [4096, 906]
    assert EmbeddedEngine.chunk_of(large, torch.device("cuda")) == 4096
