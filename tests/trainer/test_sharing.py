"""Shared prefixes against separate rows: the same gradients, losses and figures, for every family, tree and
loss.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from agito.learning.losses.config import CISPOConfig, DecoupledPPOConfig, DPPOConfig, GSPOConfig, LossConfig
from agito.learning.trainer import LocalTrainer, TrainerConfig
from agito.learning.trainer.passes import traverse
from agito.learning.trainer.sharing import Block, plan_blocks, worth_sharing
from agito.models import Decoder, DecoderConfig, LoraConfig, RopeScaling, adapt
from agito.types import AttemptId, Sample, span

TOLERANCE = 1e-5
VOCAB = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 4,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 8,
    "max_position": 128,
}
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_max_position=32)
GEMMA: dict[str, Any] = {
    "family": "gemma3_text",
    "activation": "gelu_tanh",
    "norm_offset": True,
    "sandwich_norms": True,
    "scale_embeddings": True,
    "query_scale": 0.3,
    "sliding_window": 6,
    "sliding_layers": (0, 2, 3),
    "local_rope_theta": 1e3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"family": "llama", "qk_norm": False, "tie_embeddings": False, "rope": LLAMA3},
    "llama with every bias": {
        "family": "llama",
        "qk_norm": False,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    },
    "mistral, window within the prefix": {
        "family": "mistral",
        "qk_norm": False,
        "sliding_window": 5,
        "sliding_layers": (0, 1, 2, 3),
    },
    "mistral, window within the branch": {
        "family": "mistral",
        "qk_norm": False,
        "sliding_window": 27,
        "sliding_layers": (0, 1, 2, 3),
    },
    "qwen2 with windows": {
        "family": "qwen2",
        "qk_norm": False,
        "qkv_bias": True,
        "sliding_window": 9,
        "sliding_layers": (2, 3),
    },
    "gemma3": GEMMA,
    "wide": {"hidden_size": 256},
}


def network(family: str = "qwen3", seed: int = 0) -> Decoder:
    model = Decoder(DecoderConfig(**SHAPE | FAMILIES[family]), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def sample(
    rng: random.Random,
    group: int,
    slot: int,
    ids: Sequence[int],
    trainable: Sequence[int],
    temperature: float = 1.0,
) -> Sample:
    n = len(ids)
    return Sample(
        attempt=AttemptId(group=group, slot=slot),
        segment=0,
        ids=array("i", ids),
        trainable=bytes(trainable),
        logprobs=array("f", [-rng.uniform(3, 5) for _ in range(n)]),
        advantages=array("f", [rng.gauss(0, 1) * on for on in trainable]),
        versions=span(0, n),
        temperature=temperature,
    )


def drawn(rng: random.Random, length: int) -> tuple[list[int], list[int]]:
    return [rng.randrange(VOCAB) for _ in range(length)], [rng.randint(0, 1) for _ in range(length)]


def prompts(rng: random.Random) -> list[Sample]:
    """Two groups of five, each with its prompt."""
    found: list[Sample] = []
    for group in range(2):
        prompt = [rng.randrange(VOCAB) for _ in range(20 + group)]
        for slot in range(5):
            ids, trainable = drawn(rng, rng.randint(1, 12))
            found.append(sample(rng, group, slot, prompt + ids, [0] * len(prompt) + [1] + trainable[1:]))
    return found


def branching(rng: random.Random) -> list[Sample]:
    """Attempts that agree in sampled tokens, branch, branch again, begin one another, or are the same; two
    temperatures.
    """
    found: list[Sample] = []
    stems = [drawn(rng, 15)]
    stems[0][1][0] = 0
    for _ in range(4):
        ids, trainable = rng.choice(stems)
        at = rng.randint(8, len(ids))
        more = drawn(rng, rng.randint(3, 9))
        stems.append((ids[:at] + more[0], trainable[:at] + more[1]))
    for slot, (ids, trainable) in enumerate([*stems, stems[0], stems[2]]):
        found.append(sample(rng, 0, slot, ids, [*trainable[:-1], 1], 0.8 if slot % 3 else 1.0))
    return found


def apart(rng: random.Random) -> list[Sample]:
    """Nothing in common."""
    return [
        sample(rng, 0, slot, *(lambda d: (d[0], [0, 1, *d[1][2:]]))(drawn(rng, 9 + slot)))
        for slot in range(3)
    ]


TREES: dict[str, Callable[[random.Random], list[Sample]]] = {
    "prompts": prompts,
    "branching": branching,
    "apart": apart,
}


def learned(
    model: Decoder, samples: Sequence[Sample], phase: str = "rl", **fields: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients and figures of one batch."""
    config = TrainerConfig.model_validate(
        {"check_on_policy": False, "minibatches": 1, "muon_dtype": "float32"} | fields
    )
    trainer = LocalTrainer(model, config)
    trainer.begin_phase(phase, 3)  # type: ignore[arg-type]
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: gradients.__setitem__(name, parameter.grad.clone())
            )
    stats = trainer.step(samples) if phase == "rl" else trainer.sft_step(samples)
    return gradients, dict(stats.values)


def require_equal(
    make: Callable[[], Decoder], samples: Sequence[Sample], phase: str = "rl", **fields: Any
) -> None:
    rows, figures = learned(make(), samples, phase, share_prefixes="never", **fields)
    shared, figures_too = learned(make(), samples, phase, share_prefixes="always", **fields)
    assert max(float(gradient.abs().max()) for gradient in rows.values()) > 0.01
    assert shared.keys() == rows.keys()
    for name, gradient in rows.items():
        torch.testing.assert_close(
            shared[name], gradient, atol=TOLERANCE, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert figures_too == pytest.approx(figures, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tree", ["prompts", "branching"])
def test_gradients_of_shared_prefixes_equal_those_of_separate_rows_in_every_family(
    family: str, tree: str
) -> None:
    require_equal(lambda: network(family), TREES[tree](random.Random(1)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tree", TREES)
def test_gradients_are_equal_over_any_tree_and_any_micro_batches(tree: str, seed: int) -> None:
    samples = TREES[tree](random.Random(seed))
    require_equal(network, samples, micro_tokens=random.Random(seed).choice([1, 15, 40, 10_000]))
    require_equal(network, samples, "sft", micro_tokens=25)


@pytest.mark.parametrize(
    "loss",
    [
        GSPOConfig(clip_low=0.1, clip_high=9.0),
        DPPOConfig(),
        CISPOConfig(),
        DecoupledPPOConfig(clip_low=0.9, clip_high=1.1),
        DecoupledPPOConfig(sequence_rejection=(0.5, 1.5)),
    ],
    ids=["gspo", "dppo", "cispo", "decoupled_ppo", "decoupled_ppo, sequences rejected"],
)
def test_losses_that_look_at_whole_sequences_see_the_shared_tokens_too(loss: LossConfig) -> None:
    require_equal(network, branching(random.Random(3)), loss=loss)


def test_the_second_minibatch_has_its_old_log_probabilities_from_shared_prefixes() -> None:
    require_equal(network, prompts(random.Random(4)), minibatches=2)


def test_adapters_learn_the_same_from_shared_prefixes() -> None:
    def adapted() -> Decoder:
        model = adapt(network("llama"), LoraConfig(rank=3), seed=2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_B"):
                    parameter.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.1)
        return model

    require_equal(adapted, branching(random.Random(5)))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_compute_their_activations_again_share_prefixes_too(family: str) -> None:
    samples = branching(random.Random(2))
    require_equal(lambda: network(family), samples, keep_activations=False)
    kept, _ = learned(network(family), samples, share_prefixes="always")
    for keeps in (False, 7, 20, 40):
        again, _ = learned(network(family), samples, share_prefixes="always", keep_activations=keeps)
        assert all(torch.equal(again[name], gradient) for name, gradient in kept.items()), keeps


@pytest.mark.parametrize("targets", [("q_proj",), ("v_proj", "down_proj")], ids=", ".join)
def test_an_adapter_of_some_projections_learns_the_same_from_activations_that_are_computed_again(
    targets: tuple[str, ...],
) -> None:
    """The first layer's keys then need no gradient."""
    samples = branching(random.Random(2))
    kept, again = (
        learned(
            adapt(network("llama"), LoraConfig(rank=3, targets=targets), seed=2),
            samples,
            share_prefixes="always",
            keep_activations=keeps,
        )[0]
        for keeps in (True, 9)
    )
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())


def most_kept(samples: Sequence[Sample], kept_tokens: int | None) -> int:
    """The most bytes that wait for the backward pass at once in an update that shares prefixes."""
    model, count, size, most = network("llama"), Counter[int](), dict[int, int](), 0
    own = {parameter.data_ptr() for parameter in model.parameters()}

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal most
            self.tensor, self.storage = tensor, tensor.untyped_storage().data_ptr()
            if self.storage not in own:
                size[self.storage] = tensor.untyped_storage().nbytes()
                count[self.storage] += 1
            most = max(most, sum(size[each] for each in count))

        def __del__(self) -> None:
            count[self.storage] -= 1
            if count[self.storage] <= 0:
                del count[self.storage]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        traverse(
            model,
            plan_blocks(samples, max_tokens=40, worth=1),
            lambda part, logp_T, entropy_T: -logp_T.sum(),
            kept_tokens=kept_tokens,
        )
    return most


def test_an_update_keeps_the_activations_of_no_more_tokens_than_it_may() -> None:
    """A chain of shared prefixes, whose blocks all wait for the longest sample."""
    rng = random.Random(0)
    ids, _ = drawn(rng, 120)
    samples = [
        sample(rng, 0, n, ids[:stop], [0] * (stop - 4) + [1] * 4) for n, stop in enumerate((40, 80, 120))
    ]
    every = most_kept(samples, None)
    inputs = 120 * SHAPE["num_layers"] * 4 * (SHAPE["hidden_size"] + 2 * 2 * SHAPE["head_dim"] * 2)
    for kept_tokens in (10, 20, 40, 60):
        assert most_kept(samples, kept_tokens) < every * kept_tokens / 120 + every / 4 + inputs, kept_tokens
    assert most_kept(samples, 120) == every


def test_a_shared_sampled_token_earns_the_sum_over_its_descendants() -> None:
    """Two attempts that share their one trained token, with opposite advantages: nothing is learned. With
    equal ones: twice as much.
    """
    rng, ids = random.Random(6), [3, 1, 4, 1, 5, 9]

    def pair(first: float, second: float) -> list[Sample]:
        made = [sample(rng, 0, slot, [*ids, 7 + slot], [0, 0, 0, 1, 0, 0, 0]) for slot in range(2)]
        for one, advantage in zip(made, (first, second), strict=True):
            one.advantages[3], one.logprobs[3] = advantage, -4.0
        return made

    one, _ = learned(network(), pair(1.0, 0.0), share_prefixes="always")
    both, _ = learned(network(), pair(1.0, 1.0), share_prefixes="always")
    none, _ = learned(network(), pair(1.0, -1.0), share_prefixes="always")
    for name, gradient in one.items():
        torch.testing.assert_close(both[name], 2 * gradient, atol=1e-6, rtol=1e-4)
        assert none[name].abs().max() < 1e-6


def tokens(blocks: Sequence[Block]) -> int:
    return sum(len(block.ids_N) + tokens(block.children) for block in blocks)


def test_a_group_of_eight_computes_its_prompt_once() -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(VOCAB) for _ in range(60)]
    samples = [
        sample(rng, 0, slot, [*prompt, slot, *drawn(rng, 39)[0]], [0] * 60 + [1] * 40) for slot in range(8)
    ]
    assert tokens(plan_blocks(samples, max_tokens=2048, worth=100)) == 60 + 8 * 40
    assert tokens(plan_blocks(samples, max_tokens=2048, worth=421)) == 800
    assert tokens(plan_blocks(samples, max_tokens=2048, worth=None)) == 800
    assert [
        len(block.lengths_B) for block in plan_blocks(samples, max_tokens=100, worth=100)[0].children
    ] == [2, 2, 2, 2]


def test_groups_share_the_rules_that_all_prompts_begin_with() -> None:
    rng = random.Random(0)
    rules = [rng.randrange(VOCAB) for _ in range(30)]
    tasks = [[*rules, task, *drawn(rng, 9)[0]] for task in range(3)]
    samples = [
        sample(rng, group, slot, [*task, slot, *drawn(rng, 4)[0]], [0] * 40 + [1] * 5)
        for group, task in enumerate(tasks)
        for slot in range(4)
    ]
    (root,) = plan_blocks(samples, max_tokens=2048, worth=10)
    assert [len(root.ids_N), *(len(child.ids_N) for child in root.children)] == [30, 10, 10, 10]
    assert tokens([root]) == 30 + 3 * 10 + 12 * 5


def test_sharing_is_for_networks_whose_tokens_cost_more_than_another_pass() -> None:
    assert worth_sharing(134_500_000) < 100
    assert worth_sharing(400_000) > 20_000
    assert LocalTrainer(network(), TrainerConfig())._worth == worth_sharing(
        sum(p.numel() for p in network().parameters())
    )


def test_a_chain_of_ever_longer_samples_is_no_endless_recursion() -> None:
    rng = random.Random(0)
    ids = [rng.randrange(VOCAB) for _ in range(120)]
    samples = [sample(rng, 0, slot, ids[: slot + 3], [0, 0, *[1] * (slot + 1)]) for slot in range(100)]
    require_equal(network, samples)


def test_a_network_that_cannot_share_is_trained_on_rows() -> None:
    class Plain:
        """Only what a policy model must have."""

        def __init__(self, model: Decoder) -> None:
            self.hidden, self.logits, self.named_parameters = (
                model.hidden,
                model.logits,
                model.named_parameters,
            )
            self.head_weight = model.head_weight

    samples = prompts(random.Random(0))
    model, other = network(), network()
    for each in (Plain(model), other):
        trainer = LocalTrainer(
            each, TrainerConfig(check_on_policy=False, share_prefixes="always", muon_dtype="float32")
        )
        trainer.begin_phase("rl", 3)
        trainer.step(samples)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
