"""The embedded engine's guarantees about slots, queue, branches, closing, versions and refusals."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agito.models import Qwen3, Qwen3Config
from agito.models.network import rotary, rotate
from agito.protocols import Sampled, SampleRequest
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.wire import EngineRequest, RowBranch, RowDone, RowRequest
from agito.types import VersionSpan

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
    model = Qwen3(CONFIG, seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3.0)
    return model


pytestmark = pytest.mark.usefixtures("kind")
new_engine: Callable[..., EmbeddedEngine] = EmbeddedEngine  # until `kind` gives another


def request(key: int, extend: Iterable[int], *, max_tokens: int = 5, **how: Any) -> RowRequest:
    return RowRequest(
        key=key,
        seed=key,
        request=SampleRequest(extend=array("i", extend), max_tokens=max_tokens, stop_ids=(), **how),
    )


def finish(of: EmbeddedEngine, *requests: RowRequest, **more: Any) -> dict[int, RowDone]:
    answer = of.advance(EngineRequest(requests=requests, **more))
    done = list(answer.done)
    while answer.live:
        answer = of.advance(EngineRequest())
        assert answer.done or answer.forwarded, "the engine is stuck"
        done += answer.done
    return {row.key: row for row in done}


def ids(done: RowDone) -> list[int]:
    return list(sampled(done).ids)


def sampled(done: RowDone) -> Sampled:
    assert done.sampled is not None, done.error
    return done.sampled


def logprobs_after(model: Qwen3, prefix: Sequence[int], tokens: Sequence[int]) -> Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([*prefix, *tokens]), [len(prefix) + len(tokens)])[len(prefix) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def assert_close(got: Sequence[float], expected: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(got), expected, atol=TOLERANCE, rtol=0)


def test_rows_wait_for_a_slot_first_come_first_served_while_anybody_samples() -> None:
    of = new_engine(network(), rows=2, context=64)
    answer = of.advance(
        EngineRequest(requests=(request(0, [5], max_tokens=30), request(1, [6], max_tokens=2)), steps=4)
    )
    assert [done.key for done in answer.done] == [1], "it rests"
    answer = of.advance(EngineRequest(requests=(request(3, [3]), request(2, [2])), steps=1))
    assert answer.live == 3 and answer.steps == 1, "two wait: the first still samples"
    answer = of.advance(EngineRequest(requests=(request(1, [9]),), steps=9))
    assert [done.key for done in answer.done] == [1], "who has a slot goes on at once"
    answer = of.advance(EngineRequest(closed=(1,), steps=9))
    assert [done.key for done in answer.done] == [3], "one slot: the first in the queue"
    assert [done.key for done in of.advance(EngineRequest(closed=(0, 3), steps=9)).done] == [2]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_where_nobody_samples_rows_that_rest_make_room_and_go_on_as_if_they_had_not(rows: int) -> None:
    model, turns = network(), 4
    of, roomy = new_engine(model, rows=rows, context=64), new_engine(model, rows=8, context=64)
    for turn in range(turns):
        asked = [request(key, [key, turn], max_tokens=4) for key in (4, 2, 0, 3, 1)]
        crowded, alone = finish(of, *asked), finish(roomy, *asked)
        assert {key: ids(done) for key, done in crowded.items()} == {
            key: ids(done) for key, done in alone.items()
        }
        for key, done in crowded.items():
            assert_close(sampled(done).logprobs, torch.tensor(sampled(alone[key]).logprobs))
    assert of.num_rows == 5
    finish(of, closed=tuple(range(5)))
    assert of.num_rows == 0


def test_who_begins_as_a_row_that_is_asked_again_does_not_wait_for_it() -> None:
    """A regression: it once waited for ever, because the other row was behind it in the read queue."""
    of = new_engine(network(), rows=4, chunk=8)
    finish(of, request(0, [5, 6, 7]))
    of.advance(EngineRequest(requests=(request(1, range(20)), request(2, [5, 6, 7]))))
    of.advance(EngineRequest(requests=(request(0, [8, 9]),)))
    done = list[int]()
    for _ in range(8):
        done += [each.key for each in of.advance(EngineRequest(steps=9)).done]
    assert sorted(done) == [0, 1, 2]


def test_a_branch_outlives_its_row_closed_in_the_same_exchange_and_a_closed_one_leaves_nothing() -> None:
    model = network()
    of, plain = new_engine(model, rows=2), new_engine(model, rows=4)
    for engine in (of, plain):
        finish(engine, request(0, [5, 6]))
    asked = replace(request(0, [7]), key=1)
    done = finish(
        of, asked, branched=(RowBranch(parent=0, child=1), RowBranch(parent=1, child=2)), closed=(0, 2)
    )
    assert ids(done[1]) == ids(finish(plain, request(0, [7]))[0])
    finish(of, closed=(1,))
    assert of.num_rows == 0


def test_a_closed_row_is_never_answered_wherever_it_is() -> None:
    of = new_engine(network(), rows=2, context=64)
    of.advance(EngineRequest(requests=tuple(request(key, [key], max_tokens=30) for key in range(4)), steps=2))
    answer = of.advance(EngineRequest(closed=(0, 2, 99), steps=2))  # live, queued, unknown
    assert answer.live == 2
    done = finish(of, closed=(0,))
    assert sorted(done) == [1, 3]
    assert len(ids(done[3])) == 30


def test_a_slot_taken_over_shows_nothing_of_its_last_tenant() -> None:
    model = network()
    of = new_engine(model, rows=1, context=64)
    finish(of, request(0, range(40), max_tokens=20))
    again = sampled(finish(of, request(1, [5, 6, 7]), closed=(0,))[1])
    assert again == sampled(finish(new_engine(model, rows=1, context=64), request(1, [5, 6, 7]))[1])


@pytest.mark.parametrize(
    "rows", [3, 2, 1], ids=["a slot is free", "one branch is stored", "both branches are stored"]
)
def test_a_branch_shares_the_past_and_draws_its_own_future(rows: int) -> None:
    model = network()
    of = new_engine(model, rows=rows + 1, context=64)
    past = [5, 6, 7]
    past += ids(finish(of, request(3, [9, 9]), request(0, past))[0])  # row 3 holds the first slot
    of.advance(EngineRequest(branched=(RowBranch(parent=0, child=8), RowBranch(parent=8, child=9))))
    own = sampled(finish(of, request(0, [1], max_tokens=8))[0])
    assert_close(own.logprobs, logprobs_after(model, [*past, 1], own.ids))
    for closed, child in ((0, 8), (8, 9)):
        branch = sampled(finish(of, request(child, [1], max_tokens=8), closed=(closed,))[child])
        assert branch.ids != own.ids
        assert_close(branch.logprobs, logprobs_after(model, [*past, 1], branch.ids))
        assert branch.versions == (VersionSpan(start=0, stop=9, version=0),)


def test_a_branch_with_its_parents_seed_repeats_it() -> None:
    of = new_engine(network(), rows=2, context=64)
    finish(of, request(3, [5, 6]))
    of.advance(EngineRequest(branched=(RowBranch(parent=3, child=4),)))
    done = finish(
        of,
        request(3, [1], max_tokens=12),
        RowRequest(key=4, seed=3, request=request(3, [1], max_tokens=12).request),
    )
    assert ids(done[3]) == ids(done[4])


def test_a_prompt_is_computed_once_for_the_rows_that_begin_with_it() -> None:
    model = network()
    of = new_engine(model, rows=6, context=64)
    prompt = list(range(20))
    first = of.advance(EngineRequest(requests=tuple(request(key, prompt) for key in range(3)), steps=1))
    assert first.forwarded == 20 + 2 + 3
    later = of.advance(EngineRequest(requests=(request(3, prompt), request(4, [*prompt, 7])), steps=4))
    assert later.forwarded == 1 + 21 + 5 * 3 + 2  # rows 0-2 have three tokens to go, 3 and 4 four
    # the last one shares with a parked row
    done = {row.key: row for row in later.done} | finish(of) | finish(of, request(5, prompt))
    for key in range(6):
        began = [*prompt, 7] if key == 4 else prompt
        assert_close(sampled(done[key]).logprobs, logprobs_after(model, began, ids(done[key])))
    assert len({tuple(ids(done[key])) for key in range(4)}) > 1


def test_a_long_observation_is_read_in_chunks_while_others_decode() -> None:
    model = network()
    of = new_engine(model, rows=4, context=96, chunk=8)
    of.advance(EngineRequest(requests=(request(0, [5, 6, 7], max_tokens=40),), steps=1))
    # the last one waits for the first and shares with it
    asked = (request(1, range(20)), request(2, [9, 8, 7]), request(3, range(20)))
    read: list[int] = []
    done: dict[int, RowDone] = {}
    answer = of.advance(EngineRequest(requests=asked, steps=1))
    while answer.live:
        assert answer.steps == 1, "a row that could decode had to wait"
        read.append(answer.forwarded)
        done |= {row.key: row for row in answer.done}
        answer = of.advance(EngineRequest(steps=1))
    done |= {row.key: row for row in answer.done}
    assert read[:2] == [8 + 1, 8 + 1]
    assert max(read) <= 8 + 4
    for key, prompt in ((0, [5, 6, 7]), (1, range(20)), (2, [9, 8, 7]), (3, range(20))):
        assert_close(sampled(done[key]).logprobs, logprobs_after(model, list(prompt), ids(done[key])))


def test_a_swap_in_the_middle_of_an_observation_is_recorded_where_it_happened() -> None:
    old, new = network(1), network(2)
    of = new_engine(old, rows=1, context=64, chunk=5)
    prompt = list(range(12))
    of.advance(EngineRequest(requests=(request(0, prompt, max_tokens=6),), steps=1))
    of.load_weights(new, 1)
    found = sampled(finish(of)[0])
    assert found.versions == (
        VersionSpan(start=0, stop=5, version=0),
        VersionSpan(start=5, stop=18, version=1),
    )
    tokens = [*prompt, *found.ids]
    assert_close(found.logprobs, hybrid({0: old, 1: new}, tokens, [0] * 5 + [1] * (len(tokens) - 5))[11:])


def test_a_row_that_is_closed_while_it_is_read_is_gone() -> None:
    model = network()
    of = new_engine(model, rows=1, context=64, chunk=5)
    of.advance(EngineRequest(requests=(request(0, range(12)),), steps=1))
    done = finish(of, request(1, range(12)), closed=(0,))
    assert_close(sampled(done[1]).logprobs, logprobs_after(model, list(range(12)), ids(done[1])))


def test_a_key_that_is_used_again_shares_nothing_with_what_it_was() -> None:
    model = network()
    of = new_engine(model, rows=3, context=64)
    finish(of, request(0, range(12)))
    done = finish(of, request(0, range(20, 32)), request(1, range(12)), closed=(0,))
    assert_close(sampled(done[1]).logprobs, logprobs_after(model, list(range(12)), ids(done[1])))


def test_a_prompt_that_other_weights_computed_is_computed_anew() -> None:
    old, new = network(1), network(2)
    of = new_engine(old, rows=3, context=64)
    finish(of, request(0, range(12)))
    of.load_weights(new, 5)
    done = finish(of, request(1, range(12)), request(2, range(12)))
    for key in (1, 2):
        assert_close(sampled(done[key]).logprobs, logprobs_after(new, list(range(12)), ids(done[key])))
        assert sampled(done[key]).versions == (VersionSpan(start=0, stop=17, version=5),)


def test_a_prompt_is_not_taken_from_a_row_that_is_gone() -> None:
    model = network()
    of = new_engine(model, rows=1, context=64)
    finish(of, request(0, range(12)))
    finish(of, request(1, range(20, 40)), closed=(0,))
    done = finish(of, request(2, range(12)), closed=(1,))
    assert_close(sampled(done[2]).logprobs, logprobs_after(model, list(range(12)), ids(done[2])))


def test_versions_cover_extended_and_sampled_positions_and_change_where_the_weights_did() -> None:
    old, new = network(1), network(2)
    of = new_engine(old, rows=2, context=64, version=4)
    of.advance(
        EngineRequest(requests=(request(0, [1, 2, 3], max_tokens=9), request(1, [9], max_tokens=2)), steps=3)
    )
    of.load_weights(new, 5)
    of.load_weights(new.state_dict(), 6)
    done = finish(of, request(1, [7, 8], max_tokens=3))
    assert sampled(done[0]).versions == (
        VersionSpan(start=0, stop=7, version=4),
        VersionSpan(start=7, stop=12, version=6),
    )
    assert sampled(done[1]).versions == (VersionSpan(start=0, stop=5, version=6),)


def test_after_a_swap_the_cache_is_kept_and_logprobs_are_exact_for_that_hybrid() -> None:
    old, new = network(1), network(2)
    of = new_engine(old, rows=1, context=64)
    prompt, observation = [1, 2, 3], [4, 5]
    of.advance(EngineRequest(requests=(request(0, prompt, max_tokens=9),), steps=3))
    of.load_weights(new, 1)
    first = sampled(finish(of)[0])
    of.load_weights(old, 2)
    second = sampled(finish(of, request(0, observation, max_tokens=4))[0])
    tokens = [*prompt, *first.ids, *observation, *second.ids]
    # The input at position p is computed when the token at p + 1 is sampled, by the weights of that moment.
    versions = [0] * (len(prompt) + 3) + [1] * 5 + [2] * (len(tokens) - len(prompt) - 8)
    expected = hybrid({0: old, 1: new, 2: old}, tokens, versions)
    assert_close(first.logprobs, expected[2:11])
    assert_close(second.logprobs, expected[13:17])
    assert not torch.allclose(expected[2:11], logprobs_after(old, prompt, first.ids), atol=1e-2)
    assert not torch.allclose(
        expected[5:11], logprobs_after(new, [*prompt, *first.ids[:3]], first.ids[3:]), atol=1e-2
    )


def hybrid(models: Mapping[int, Qwen3], tokens: Sequence[int], versions: Sequence[int]) -> Tensor:
    """Slow reference for log-probabilities of tokens[1:]: each position's keys, values and query come from
    its own version."""
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(CONFIG.num_layers)]
    out: list[Tensor] = []
    for position, (token, version) in enumerate(zip(tokens[:-1], versions, strict=False)):
        body = models[version].model
        cos, sin = rotary(torch.tensor([position]), CONFIG)
        x = body.embed_tokens(torch.tensor([token]))
        layer: Any
        for layer, cache in zip(body.layers, kept, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            q = rotate(attention.q_norm(attention.q_proj(normed).view(1, CONFIG.num_heads, -1)), cos, sin)[0]
            k = rotate(attention.k_norm(attention.k_proj(normed).view(1, CONFIG.num_kv_heads, -1)), cos, sin)[
                0
            ]
            cache.append((k, attention.v_proj(normed).view(CONFIG.num_kv_heads, -1)))
            heads = []
            for head in range(CONFIG.num_heads):
                shared = head // (CONFIG.num_heads // CONFIG.num_kv_heads)
                weights = (
                    torch.stack([key[shared] @ q[head] for key, _ in cache])
                    .div(CONFIG.head_dim**0.5)
                    .softmax(0)
                )
                heads.append(
                    sum(weight * value[shared] for weight, (_, value) in zip(weights, cache, strict=True))
                )
            x = x + attention.o_proj(torch.cat(heads)[None])
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits = F.linear(body.norm(x), models[version].head_weight)
        out.append(logits.log_softmax(-1)[0, tokens[position + 1]])
    return torch.stack(out).detach()


def test_a_row_that_would_outgrow_the_context_is_answered_with_an_error_and_goes_on_as_it_was() -> None:
    model = network()
    of = new_engine(model, rows=2, context=16)
    past = [1, 2, 3]
    past += ids(finish(of, request(0, past, max_tokens=4))[0])
    done = finish(of, request(0, range(7), max_tokens=3), request(1, range(13), max_tokens=3))
    assert done[0].sampled is None
    assert "7 tokens + 7 to extend + 3 to sample: the context is 16" in str(done[0].error)
    assert len(ids(done[1])) == 3, "exactly full is not too much"
    last = sampled(finish(of, request(0, [5], max_tokens=8))[0])
    assert_close(last.logprobs, logprobs_after(model, [*past, 5], last.ids))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (request(0, []), "empty row"),
        (request(0, [1, 61]), "outside the vocabulary"),
        (request(0, [-1]), "outside the vocabulary"),
        (request(0, [1], max_tokens=0), "max_tokens=0"),
        (request(0, [1], temperature=-1.0), "temperature=-1.0"),
        (request(0, [1], temperature=float("nan")), "temperature=nan"),
        (request(0, [1], top_p=0.0), "top_p=0.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_makes_no_sense_is_answered_with_an_error_and_harms_nobody(
    bad: RowRequest, why: str
) -> None:
    of = new_engine(network(), rows=2, context=64)
    done = finish(of, bad, request(1, [1]))
    assert why in str(done[0].error)
    assert len(ids(done[1])) == 5
    assert len(ids(finish(of, request(0, [1]))[0])) == 5, "and the row can still be made"


def test_a_second_request_to_a_busy_row_is_refused_before_anything_changes() -> None:
    model = network()
    of, twin = (new_engine(model, rows=1, context=64) for _ in range(2))
    for one in (of, twin):
        one.advance(EngineRequest(requests=(request(0, [1]), request(1, [2])), steps=1))
    for bad in (
        EngineRequest(requests=(request(0, [3]),), closed=(1,)),
        EngineRequest(requests=(request(1, [3]),), closed=(0,)),
        EngineRequest(requests=(request(2, [3]), request(2, [3])), closed=(0,)),
        EngineRequest(branched=(RowBranch(parent=0, child=5),), closed=(1,)),
        EngineRequest(branched=(RowBranch(parent=7, child=5),), closed=(0,)),
        EngineRequest(branched=(RowBranch(parent=0, child=1),), closed=(0,)),
    ):
        with pytest.raises(ValueError, match="row"):
            of.advance(bad)
    assert finish(of, closed=(1,)) == finish(twin, closed=(1,))


def test_dropping_everything_starts_afresh() -> None:
    model = network()
    of = new_engine(model, rows=1, context=64)
    of.advance(EngineRequest(requests=(request(0, [1], max_tokens=20), request(1, [2])), steps=1))
    of.drop_all()
    assert of.advance(EngineRequest()).live == 0
    assert finish(of, request(0, [4])) == finish(new_engine(model, rows=1, context=64), request(0, [4]))


def test_an_exchange_says_how_busy_the_engine_was() -> None:
    of = new_engine(network(), rows=4, context=64)
    answer = of.advance(
        EngineRequest(
            requests=(request(0, [1, 2, 3], max_tokens=2), request(1, [1, 2], max_tokens=4)), steps=10
        )
    )
    assert (answer.live, answer.steps, answer.forwarded) == (0, 3, 5 + 2 + 1 + 1)
    assert answer.busy_s > 0
    answer = of.advance(EngineRequest(requests=(request(0, [7]),), steps=0))
    assert (answer.live, answer.steps, answer.forwarded) == (1, 0, 2), (
        "the last sampled token is computed with what follows it"
    )


def test_the_engine_takes_a_copy_of_the_weights() -> None:
    model = network()
    of = new_engine(model, rows=1, context=64)
    before = sampled(finish(of, request(0, [1, 2]))[0])
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    of.drop_all()
    assert sampled(finish(of, request(0, [1, 2]))[0]) == before


def test_an_engine_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rows=0"):
        new_engine(network(), rows=0, context=64)
    with pytest.raises(ValueError, match="context=300"):
        new_engine(network(), rows=1, context=300)
    with pytest.raises(ValueError, match="shape"):
        new_engine(network(), rows=1, context=64).load_weights(
            Qwen3(Qwen3Config(vocab_size=62, hidden_size=32)), 1
        )
