"""The network against the real transformers, its ragged batches, and its cache."""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config as HFConfig
from transformers import Qwen3ForCausalLM

from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.models import CachedQwen3, NativeQwen3, Qwen3, Qwen3Config, is_supported, num_params
from agito.models.network import KEY_QUERY_CORRELATION
from agito.types import AttemptId, Sample, span

TINY = Qwen3Config(
    vocab_size=131,
    hidden_size=48,
    intermediate_size=80,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=256,
)
TOLERANCE = 1e-5


def network(config: Qwen3Config = TINY, seed: int = 1) -> Qwen3:
    """Random weights large enough, norms included, that a misplaced one shows."""
    model = Qwen3(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
            elif "embed_tokens" in name:
                weight.mul_(4.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(3.0)
    return model


def twin(model: Qwen3) -> Qwen3ForCausalLM:
    """The same weights in the library's own class."""
    config = model.config
    other = Qwen3ForCausalLM(
        HFConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_embeddings,
            max_position_embeddings=config.max_position,
        )
    )
    missing = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= ({"lm_head.weight"} if config.tie_embeddings else set())
    return other.eval()


def tokens(lengths: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randint(TINY.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": False},
        {"head_dim": 24, "num_heads": 2, "num_kv_heads": 1},
        {"num_kv_heads": 4, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
    ],
    ids=["tied", "untied", "head_dim is not d/h", "no grouping, other constants"],
)
def test_logits_equal_those_of_transformers(changes: dict[str, Any]) -> None:
    model = network(replace(TINY, **changes))
    ids = tokens([40])
    with torch.no_grad():
        expected = twin(model)(ids[None]).logits[0]
        torch.testing.assert_close(model(ids, [40]), expected, atol=TOLERANCE, rtol=0)
    assert expected.std() > 0.3


def test_a_ragged_batch_equals_its_sequences_one_by_one() -> None:
    model, lengths = network(), [1, 17, 5, 33, 2]
    ids = tokens(lengths)
    together = model.hidden(ids, lengths).split(lengths)
    for part, one in zip(ids.split(lengths), together, strict=True):
        torch.testing.assert_close(model.hidden(part, [len(part)]), one, atol=TOLERANCE, rtol=0)


def test_gradients_of_a_ragged_batch_are_the_sum_of_those_of_its_sequences() -> None:
    model, lengths = network().double(), [3, 11, 7]
    ids = tokens(lengths)
    model.logits(model.hidden(ids, lengths)).square().sum().backward()
    together = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    model.zero_grad()
    for part in ids.split(lengths):
        model(part, [len(part)]).square().sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, together[name], atol=1e-8, rtol=1e-6)


def test_logits_are_computed_only_where_they_are_asked_for() -> None:
    model = network()
    hidden = model.hidden(tokens([9]), [9])
    assert model.logits(hidden[[2, 5]]).shape == (2, TINY.vocab_size)
    torch.testing.assert_close(
        model.logits(hidden[[2, 5]]), model.logits(hidden)[[2, 5]], atol=1e-6, rtol=1e-6
    )


def test_weights_are_drawn_from_the_seed_alone() -> None:
    one, same, other = Qwen3(TINY, seed=3), Qwen3(TINY, seed=3), Qwen3(TINY, seed=4)
    torch.rand(5)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True)
    )
    assert not torch.equal(one.head_weight, other.head_weight)


def test_an_untrained_network_is_nearly_indifferent() -> None:
    logprobs = Qwen3(TINY, seed=0)(tokens([50]), [50]).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    assert entropy.min() > 0.95 * torch.tensor(float(TINY.vocab_size)).log()


def test_tied_weights_are_counted_once() -> None:
    assert (
        num_params(Qwen3(replace(TINY, tie_embeddings=False))) - num_params(Qwen3(TINY))
        == TINY.vocab_size * TINY.hidden_size
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"num_kv_heads": 3}, "num_heads"), ({"head_dim": 15}, "head_dim"), ({"num_layers": 0}, "num_layers")],
)
def test_an_impossible_shape_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(TINY, **changes)


def test_lengths_that_do_not_fit_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="sum to 4"):
        model.hidden(tokens([5]), [4])
    with pytest.raises(ValueError, match="max_position"):
        model.hidden(tokens([300]), [300])
    with pytest.raises(ValueError, match="at least one token"):
        model.hidden(tokens([5]), [5, 0])


KINDS = pytest.mark.parametrize("kind", ["compiled", "torch"])


def cache(model: Qwen3, kind: str, slots: int = 6, context: int = 96) -> CachedQwen3 | NativeQwen3:
    cpu = torch.device("cpu")
    if kind == "compiled":
        if not is_supported(model.config, cpu, torch.float32):
            pytest.skip("needs a C compiler")
        cached = NativeQwen3(model.config, slots=slots, context=context)
    else:
        cached = CachedQwen3(model.config, slots=slots, context=context, device=cpu, dtype=torch.float32)
    cached.load(model.state_dict())
    return cached


@KINDS
@pytest.mark.parametrize(
    "config", [TINY, replace(TINY, num_heads=6, head_dim=32, tie_embeddings=False, vocab_size=160)]
)
@torch.inference_mode()
def test_extending_and_decoding_equal_a_plain_forward_pass(kind: str, config: Qwen3Config) -> None:
    """Rows grow by random pieces, in random slots, with holes between them; every row is checked at every
    piece.
    """
    model, rng = network(config), random.Random(0)
    cached = cache(model, kind)
    rows: dict[int, list[int]] = {slot: [] for slot in (5, 0, 3, 2)}
    for _turn in range(8):
        chosen = rng.sample(sorted(rows), rng.randint(1, len(rows)))
        pieces = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 9))] for _ in chosen]
        logits = cached.extend(
            torch.tensor([*itertools.chain(*pieces)]),
            chosen,
            [len(rows[slot]) for slot in chosen],
            [len(piece) for piece in pieces],
        )
        for slot, piece, row_logits in zip(chosen, pieces, logits, strict=True):
            rows[slot] += piece
            expect(model, rows[slot], row_logits)
        started = sorted(slot for slot in rows if rows[slot])
        for _ in range(3):
            ids = [rng.randrange(config.vocab_size) for _ in started]
            positions = [len(rows[slot]) for slot in started]
            longest = max(positions) + 1
            logits = cached.decode(
                torch.tensor(ids),
                torch.tensor(started),
                torch.tensor(positions),
                num_slots=max(started) + 1,
                longest=longest,
            )
            for slot, token, row_logits in zip(started, ids, logits, strict=True):
                rows[slot].append(token)
                expect(model, rows[slot], row_logits)
    assert max(map(len, rows.values())) > 40


@torch.inference_mode()
def test_compiled_code_gives_a_row_the_same_bits_whatever_is_beside_it() -> None:
    model, rng = network(), random.Random(0)
    ids = [rng.randrange(TINY.vocab_size) for _ in range(90)]
    alone = torch.empty(0)
    for num_others in (0, 1, 4, 5, 70):
        cached = cache(model, "compiled", slots=72)
        others = list(range(1, num_others + 1))
        pieces = [ids[:40], *(ids[at % 30 : at % 30 + 1 + at % 7] for at in others)]
        slots, lengths = [0, *others], [len(piece) for piece in pieces]
        order = rng.sample(range(len(pieces)), len(pieces))
        laid = torch.tensor([token for at in order for token in pieces[at]])
        logits = cached.extend(
            laid, [slots[at] for at in order], [0] * len(order), [lengths[at] for at in order]
        )
        rows = [logits[order.index(0)].clone()]
        for token in ids[40:]:
            logits = cached.decode(
                torch.tensor([token] * len(slots)),
                torch.tensor(slots),
                torch.tensor(lengths),
                num_slots=72,
                longest=max(lengths) + 1,
            )
            lengths = [length + 1 for length in lengths]
            rows.append(logits[0].clone())
        found = torch.stack(rows)
        alone = alone if num_others else found
        assert torch.equal(found, alone), num_others


@torch.inference_mode()
def test_compiled_code_is_exact_at_every_length_and_at_the_far_ends_of_the_softmax() -> None:
    model = network()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name:
                weight.mul_(20.0)  # scores in the hundreds
    cached, ids = cache(model, "compiled", slots=1, context=256), tokens([256])
    whole = model(ids, [256])
    for at in range(256):
        found = cached.extend(ids[at : at + 1], [0], [at], [1])[0]
        torch.testing.assert_close(found, whole[at], atol=2e-4, rtol=0)


@KINDS
@torch.inference_mode()
def test_a_slot_can_be_swapped_copied_and_stored_and_goes_on_as_it_was(kind: str) -> None:
    model = network()
    cached = cache(model, kind)
    ids = tokens([7, 12])
    cached.extend(ids, [0, 4], [0, 0], [7, 12])
    cached.move([0, 4], [4, 0], [7, 12])
    cached.move([4], [2], [7])
    kept: Any = cached.read(0, 12)
    cached.write(5, kept)
    logits = cached.extend(torch.tensor([1, 2, 3, 4]), [0, 4, 2, 5], [12, 7, 7, 12], [1, 1, 1, 1])
    for row, (prefix, last) in enumerate([(ids[7:], 1), (ids[:7], 2), (ids[:7], 3), (ids[7:], 4)]):
        expect(model, [*prefix.tolist(), last], logits[row])


@KINDS
def test_weights_of_another_network_are_refused_and_nothing_changes(kind: str) -> None:
    model = network()
    cached = cache(model, kind)
    before = cached.extend(tokens([9]), [0], [0], [9]).clone()
    weights = dict(network(seed=2).state_dict())
    weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="up_proj"):
        cached.load(weights)
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match=r"up_proj|norm"):
        cached.load(weights)
    assert torch.equal(cached.extend(tokens([9]), [0], [0], [9]), before)


def expect(model: Qwen3, ids: list[int], logits_V: Tensor) -> None:
    torch.testing.assert_close(logits_V, model(torch.tensor(ids), [len(ids)])[-1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_keys_begin_like_the_first_query_head_that_reads_them_and_as_large(num_kv_heads: int) -> None:
    model = Qwen3(
        Qwen3Config(vocab_size=16, hidden_size=64, num_heads=4, num_kv_heads=num_kv_heads, head_dim=32),
        seed=3,
    )
    weights = model.state_dict()
    for layer in range(2, model.config.num_layers):
        queries_HW, keys_KW = (
            weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"].view(-1, 32 * 64)
            for name in ("q", "k")
        )
        for head, key_W in enumerate(keys_KW):
            alike = [float(torch.corrcoef(torch.stack([query_W, key_W]))[0, 1]) for query_W in queries_HW]
            assert alike.pop(head * 4 // num_kv_heads) == pytest.approx(KEY_QUERY_CORRELATION, abs=0.03)
            assert max(map(abs, alike)) < 0.1
        assert float(keys_KW.std()) == pytest.approx(float(queries_HW.std()), rel=0.05)


def test_a_new_network_learns_to_say_what_followed_within_a_few_steps() -> None:
    """Random pairs of tokens are read, then queried in any order. Without the induction heads it does not
    succeed."""
    model = Qwen3(
        Qwen3Config(vocab_size=80, hidden_size=64, intermediate_size=64, num_layers=2, head_dim=32), seed=0
    )
    trainer = LocalTrainer(model, TrainerConfig())
    trainer.begin_phase("sft", 80)
    rng = random.Random(0)
    losses = [trainer.sft_step([_pairs(rng) for _ in range(8)]).values["sft/loss_nats"] for _ in range(80)]
    # nats; the logarithm is the loss of guessing among the tokens read
    assert sum(losses[-10:]) / 10 < 0.5 * math.log(8)


def _pairs(rng: random.Random) -> Sample:
    firsts, seconds = rng.sample(range(40), 8), rng.sample(range(40, 80), 8)
    asked = rng.choices(range(8), k=16)
    ids = array("i", [token for pair in zip(firsts, seconds, strict=True) for token in pair])
    ids.extend(token for at in asked for token in (firsts[at], seconds[at]))
    trainable = bytes(16) + bytes((0, 1)) * 16
    return Sample(
        attempt=AttemptId(group=0, slot=0),
        segment=0,
        ids=ids,
        logprobs=array("f", [math.nan]) * 48,
        trainable=trainable,
        advantages=array("f", map(float, trainable)),
        versions=span(0, 48),
    )
