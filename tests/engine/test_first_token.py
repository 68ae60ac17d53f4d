"""A first token that is asked for: which one comes is decided, how probable it is stays the policy's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.engine.test_embedded import CONFIG, finish, network, reference, request, sampled

from agito.models import Qwen3
from agito.protocols import FirstToken
from agito.sampling.embedded import EmbeddedEngine

PROMPT, OTHER = [5, 9, 11, 20], [7, 7, 3]


def engine(*, native: bool) -> EmbeddedEngine:
    return EmbeddedEngine(network(), rows=64, context=256, native=native)


@pytest.mark.parametrize("native", [False, True], ids=["torch", "compiled"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_wanted_token_comes_first_with_the_log_probability_that_it_always_had(
    native: bool, temperature: float
) -> None:
    for token in (0, 17, CONFIG.vocab_size - 1):
        first = FirstToken(id=token, is_wanted=True)
        found = sampled(
            finish(engine(native=native), request(1, PROMPT, first=first, temperature=temperature))[1]
        )
        assert found.ids[0] == token
        expected = reference(network(), PROMPT, found.ids, temperature=temperature)
        assert torch.allclose(torch.tensor(found.logprobs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("native", [False, True], ids=["torch", "compiled"])
def test_any_other_token_is_drawn_from_the_rest_of_the_distribution(native: bool) -> None:
    """The likeliest token never comes; the others keep their shares, and their log-probabilities."""
    whole = torch.tensor(
        [reference(network(), PROMPT, [token]).item() for token in range(CONFIG.vocab_size)]
    ).exp()
    likeliest = int(whole.argmax())
    first, counts = FirstToken(id=likeliest, is_wanted=False), Counter[int]()
    for block in range(8):
        asked = [request(key, PROMPT, seed=block * 64 + key, max_tokens=1, first=first) for key in range(64)]
        for done in finish(engine(native=native), *asked).values():
            found = sampled(done)
            counts[found.ids[0]] += 1
            assert found.logprobs[0] == pytest.approx(float(whole[found.ids[0]].log()), abs=1e-5)
    assert likeliest not in counts
    rest = whole / (1 - whole[likeliest])
    second = int(whole.index_fill(0, torch.tensor([likeliest]), 0.0).argmax())
    share, num = float(rest[second]), counts.total()
    assert abs(counts[second] / num - share) < 4 * (share * (1 - share) / num) ** 0.5


@pytest.mark.parametrize("native", [False, True], ids=["torch", "compiled"])
def test_rows_beside_it_draw_what_they_draw_alone_and_later_requests_are_free(native: bool) -> None:
    first = FirstToken(id=17, is_wanted=True)
    alone = finish(engine(native=native), request(1, PROMPT), request(2, OTHER))
    of = engine(native=native)
    beside = finish(of, request(1, PROMPT, first=first), request(2, OTHER))
    assert sampled(alone[2]).ids == sampled(beside[2]).ids
    again = sampled(finish(of, request(1, [4], seed=8))[1])
    expected = reference(network(), [*PROMPT, *sampled(beside[1]).ids, 4], again.ids)
    assert torch.allclose(torch.tensor(again.logprobs), expected, atol=1e-5, rtol=0)


def test_what_cannot_come_first_is_refused() -> None:
    outside, cut = FirstToken(id=61, is_wanted=True), FirstToken(id=3, is_wanted=False)
    for first, top_p in ((outside, 1.0), (cut, 0.5)):
        done = finish(engine(native=False), request(1, PROMPT, first=first, top_p=top_p))[1]
        assert done.sampled is None and "first" in (done.error or "")


def test_it_holds_for_a_vocabulary_that_compiled_code_draws_from() -> None:
    large = Qwen3(replace(CONFIG, vocab_size=9000), seed=1)
    for is_wanted in (True, False):
        of = EmbeddedEngine(large, rows=16, context=256)
        first = FirstToken(id=8999, is_wanted=is_wanted)
        asked = [request(key, PROMPT, max_tokens=1, first=first) for key in range(16)]
        found = [sampled(done) for done in finish(of, *asked).values()]
        assert [each.ids[0] == 8999 for each in found] == [is_wanted] * 16
        for each in found:
            assert each.logprobs[0] == pytest.approx(float(reference(large, PROMPT, each.ids)), abs=1e-4)
