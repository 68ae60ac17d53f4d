from __future__ import annotations

import math
from array import array
from dataclasses import replace

import pytest
import torch

from agito.learning.losses.config import DecoupledPPOConfig
from agito.learning.losses.packing import split_minibatches
from agito.learning.trainer import LocalTrainer, SftConfig, TrainerConfig
from agito.learning.trainer.config import RlConfig
from agito.protocols import Trainer
from agito.types import Sample, span

PLAIN = TrainerConfig(check_on_policy=False, muon_dtype="float32", minibatches=1)


def trainer_of(
    model, config: TrainerConfig = PLAIN, *, phase: str = "rl", total_steps: int = 10
) -> LocalTrainer:
    trainer = LocalTrainer(model, config)
    trainer.begin_phase(phase, total_steps)  # type: ignore[arg-type]
    return trainer


def weights(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def test_it_is_a_trainer(make_model) -> None:
    trainer: Trainer = LocalTrainer(make_model())
    assert callable(trainer.step)


def test_imitation_loss_equals_a_slow_per_token_reference(make_model, make_samples) -> None:
    model, samples = make_model(), make_samples(5)
    nll, count = 0.0, 0
    with torch.no_grad():
        for sample in samples:
            logp = torch.log_softmax(
                model.logits(model.hidden(torch.tensor(sample.ids), [len(sample.ids)])), dim=-1
            )
            for t, on in enumerate(sample.trainable):
                if on:
                    nll, count = nll - float(logp[t - 1, sample.ids[t]]), count + 1
    stats = trainer_of(model, phase="sft").sft_step(samples)
    assert stats.values["sft/loss_nats"] == pytest.approx(nll / count, abs=1e-5)
    assert stats.values["sft/tokens"] == count


def test_a_small_set_is_memorised(make_model, make_samples) -> None:
    trainer = trainer_of(make_model(), phase="sft", total_steps=80)
    samples = make_samples(4)
    losses = [trainer.sft_step(samples).values["sft/loss_nats"] for _ in range(80)]
    assert losses[0] > 2.0
    assert losses[-1] < 0.05


def test_a_reinforced_token_becomes_more_likely_and_a_punished_one_less(make_model, make_samples) -> None:
    model = make_model()
    (sample,) = make_samples(1, model=model)
    for advantage, sign in ((1.0, 1), (-1.0, -1)):
        model = make_model()
        trainer = trainer_of(model)
        one = replace(sample, advantages=array("f", [advantage * on for on in sample.trainable]))
        trainer.step([one])
        after = trainer.step([replace(one, versions=span(0, len(one.ids)))])
        assert math.copysign(1, after.values["policy/log_w_mean_nats"]) == sign


@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_the_update_does_not_depend_on_micro_batches(make_model, make_samples, phase: str) -> None:
    results = []
    for micro_tokens in (1, 20, 10_000):
        model = make_model()
        trainer = trainer_of(model, PLAIN.model_copy(update={"micro_tokens": micro_tokens}), phase=phase)
        samples = make_samples(9)
        _ = trainer.step(samples) if phase == "rl" else trainer.sft_step(samples)
        results.append(weights(model))
    assert distance(results[0], results[1]) <= 1e-6
    assert distance(results[0], results[2]) <= 1e-6
    assert distance(results[0], weights(make_model())) > 1e-4


@pytest.mark.parametrize("phase", ["sft", "rl"])
def test_the_gradient_does_not_depend_on_packing(make_model, make_samples, phase: str) -> None:
    gradients = []
    for micro_tokens in (1, 10_000):
        model = make_model()
        trainer = trainer_of(model, PLAIN.model_copy(update={"micro_tokens": micro_tokens}), phase=phase)
        packs = trainer._pack(make_samples(9))
        trainer._accumulate(packs, None, num_tokens=40)
        gradients.append([gradient.clone() for gradient in trainer.optimizer.gradients()])
    assert distance(*gradients) <= 1e-6


def test_the_same_steps_give_the_same_bits(make_model, make_samples) -> None:
    results = []
    for _ in range(2):
        model = make_model()
        trainer = trainer_of(model, TrainerConfig(check_on_policy=False, minibatches=2, micro_tokens=20))
        for seed in range(3):
            trainer.step(make_samples(8, seed=seed))
        results.append(weights(model))
    assert distance(*results) == 0.0


def test_untrained_tokens_do_not_reach_the_weights(make_model, make_samples) -> None:
    """Other log-probabilities and advantages at untrained positions change no bit."""
    results = []
    for junk in (0.0, 7.0):
        model, samples = make_model(), make_samples(6)
        samples = [
            replace(
                sample,
                advantages=array(
                    "f",
                    [a if on else junk for a, on in zip(sample.advantages, sample.trainable, strict=True)],
                ),
                logprobs=array(
                    "f", [x if on else -junk for x, on in zip(sample.logprobs, sample.trainable, strict=True)]
                ),
            )
            for sample in samples
        ]
        trainer_of(model).step(samples)
        results.append(weights(model))
    assert distance(*results) == 0.0


def test_a_sample_without_trainable_tokens_changes_nothing(make_model, make_samples) -> None:
    silent = replace(make_samples(1, seed=9)[0], trainable=bytes(len(make_samples(1, seed=9)[0].ids)))
    results = []
    for extra in ([], [silent]):
        model = make_model()
        trainer_of(model).step([*make_samples(4), *extra])
        results.append(weights(model))
    assert distance(*results) == 0.0


def test_zero_advantage_adds_no_gradient_but_counts_in_n_where_void_is_not_there_at_all(
    make_model, make_samples
) -> None:
    samples = make_samples(4)
    zero = replace(samples[0], advantages=array("f", [0.0] * len(samples[0].ids)))
    gradients, norms = [], []
    for batch in ([zero, *samples[1:]], samples[1:]):
        trainer = trainer_of(make_model())
        norms.append(trainer.step(batch).values["train/grad_norm"])
        gradients.append(sum(sample.num_trainable for sample in batch))
    assert norms[0] * gradients[0] == pytest.approx(norms[1] * gradients[1], rel=1e-4)
    assert norms[0] < norms[1]


def test_n_can_be_given_from_outside(make_model, make_samples) -> None:
    counted = sum(sample.num_trainable for sample in make_samples(4))
    usual = trainer_of(make_model()).step(make_samples(4)).values
    double = trainer_of(make_model()).step(make_samples(4), num_tokens=2 * counted).values
    assert double["train/grad_norm"] == pytest.approx(usual["train/grad_norm"] / 2, rel=1e-5)
    assert double["policy/loss"] == pytest.approx(usual["policy/loss"] / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_of_the_weights_themselves_have_weight_one(
    make_model, make_samples, temperature: float
) -> None:
    model = make_model()
    trainer = trainer_of(model, TrainerConfig(minibatches=1))
    values = trainer.step(make_samples(8, model=model, temperature=temperature)).values
    assert abs(values["policy/log_w_mean_nats"]) < 1e-6
    assert values["policy/log_w_abs_mean_nats"] < 1e-5
    assert values["policy/ess_fraction"] == pytest.approx(1.0, abs=1e-5)
    assert values["policy/clip_fraction"] == 0.0


def test_a_bias_at_age_zero_is_named_a_bug(make_model, make_samples) -> None:
    model = make_model()
    shifted = [
        replace(sample, logprobs=array("f", [x - 1e-3 for x in sample.logprobs]))
        for sample in make_samples(8, model=model)
    ]
    with pytest.raises(AssertionError, match="this is a bug, not staleness"):
        trainer_of(model, TrainerConfig()).step(shifted)
    assert distance(weights(model), weights(make_model())) == 0.0
    trainer_of(model, PLAIN).step(shifted)


def _neighbours_exchanged(sample: Sample) -> Sample:
    logprobs = sample.logprobs[:]
    sampled = [at for at, on in enumerate(sample.trainable) if on]
    for one, other in zip(sampled[::2], sampled[1::2], strict=False):
        logprobs[one], logprobs[other] = logprobs[other], logprobs[one]
    return replace(sample, logprobs=logprobs)


def _one_token_off(sample: Sample) -> Sample:
    at = sample.trainable.index(1)
    return replace(
        sample, logprobs=array("f", [x - 0.01 * (where == at) for where, x in enumerate(sample.logprobs)])
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda samples: [_neighbours_exchanged(sample) for sample in samples],
        lambda samples: [_one_token_off(samples[0]), *samples[1:]],
        lambda samples: [replace(sample, temperature=1.005) for sample in samples],
        lambda samples: [replace(sample, ids=samples[0].ids[:1] + sample.ids[1:]) for sample in samples],
    ],
    ids=["neighbours exchanged", "one token", "temperature", "first token of another"],
)
def test_log_probabilities_that_are_off_both_ways_or_in_one_token_alone_are_named_a_bug(
    make_model, make_samples, spoil
) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8.0)
    samples = make_samples(40, model=model)
    trainer_of(model, TrainerConfig(rl=RlConfig(lr=1e-9, adam_lr=1e-9))).step(samples)
    with pytest.raises(AssertionError, match="this is a bug, not staleness"):
        trainer_of(model, TrainerConfig()).step(spoil(samples))


def test_in_bfloat16_rounding_is_no_bug_and_exchanged_neighbours_are(make_model, make_samples) -> None:
    """What was sampled by the same weights in the same precision, a sample at a time; the trainer computes
    all of them together.
    """
    model = make_model().to(torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8.0)
    samples = make_samples(40, model=model)
    trainer_of(model, TrainerConfig(muon_dtype="float32", rl=RlConfig(lr=1e-9, adam_lr=1e-9))).step(samples)
    with pytest.raises(AssertionError, match="this is a bug, not staleness"):
        trainer_of(model, TrainerConfig(muon_dtype="float32")).step(
            [_neighbours_exchanged(sample) for sample in samples]
        )


def test_the_same_bias_in_older_samples_is_staleness(make_model, make_samples) -> None:
    trainer = trainer_of(make_model(), TrainerConfig())
    trainer.version = 3
    values = trainer.step(make_samples(8, version=2)).values
    assert abs(values["policy/log_w_mean_nats"]) > 1e-3
    assert (values["policy/age_mean_versions"], values["policy/age_max_versions"]) == (1.0, 1.0)


def test_the_second_minibatch_measures_against_the_weights_at_batch_start(make_model, make_samples) -> None:
    """Two copies of one sample: in the second minibatch rho has moved, w has not."""
    fast = RlConfig(lr=0.05, adam_lr=0.05, decay=0.0)
    model = make_model()
    (sample,) = make_samples(1, model=model)
    good = replace(sample, advantages=array("f", [1.0 * on for on in sample.trainable]))
    trainer = trainer_of(model, TrainerConfig(rl=fast, minibatches=2))
    values = trainer.step([good, good]).values
    assert values["policy/log_w_abs_mean_nats"] < 1e-5  # pi_old is still the sampler
    assert values["policy/kl_nats"] > 1e-3  # while pi has left it
    assert values["policy/clip_fraction"] > 0.0


def test_several_minibatches_equal_the_formula_written_out(make_model, make_samples) -> None:
    """Against two optimizer steps made by hand with pi_old computed sample by sample from a frozen copy of
    the weights.
    """
    samples = make_samples(6)
    model, reference = make_model(), make_model()
    trainer_of(model, TrainerConfig(check_on_policy=False, muon_dtype="float32", minibatches=2)).step(samples)

    by_hand = trainer_of(reference)
    frozen = make_model()
    for half in split_minibatches(samples, 2):
        by_hand.optimizer.zero()
        loss = torch.zeros(())
        for sample in half:
            loss = loss + _slow_loss(reference, frozen, sample)
        (loss / sum(sample.num_trainable for sample in half)).backward()
        by_hand.optimizer.apply(0)
    assert distance(weights(model), weights(reference)) <= 1e-6


def _slow_loss(model, frozen, sample) -> torch.Tensor:
    ids = torch.tensor(sample.ids)
    logp = torch.log_softmax(model.logits(model.hidden(ids, [len(ids)])), dim=-1)
    with torch.no_grad():
        old = torch.log_softmax(frozen.logits(frozen.hidden(ids, [len(ids)])), dim=-1)
    total = torch.zeros(())
    for t, on in enumerate(sample.trainable):
        if not on:
            continue
        new_t, old_t, advantage = logp[t - 1, ids[t]], old[t - 1, ids[t]], sample.advantages[t]
        rho, w = (new_t - old_t).exp(), min(math.exp(old_t.item() - sample.logprobs[t]), 2.0)
        total = total - w * torch.minimum(rho * advantage, rho.clamp(0.8, 1.28) * advantage)
    return total


def test_a_minibatch_without_samples_is_skipped(make_model, make_samples) -> None:
    model = make_model()
    stats = trainer_of(model, TrainerConfig(check_on_policy=False, minibatches=4)).step(make_samples(1))
    assert stats.version == 1
    assert distance(weights(model), weights(make_model())) > 0


def test_a_rejected_sequence_teaches_nothing_but_counts_in_n(make_model, make_samples) -> None:
    never = DecoupledPPOConfig(sequence_rejection=(0.999, 1.001))
    values = trainer_of(make_model(), PLAIN.model_copy(update={"loss": never})).step(make_samples(4)).values
    assert values["policy/rejected_sequences_fraction"] == 1.0
    assert values["policy/tokens"] > 0
    assert values["train/grad_norm"] == 0.0


def test_versions_count_steps_and_a_new_phase_forgets_moments(make_model, make_samples) -> None:
    trainer = trainer_of(make_model(), phase="sft")
    assert [trainer.sft_step(make_samples(2)).version for _ in range(2)] == [1, 2]
    assert trainer.optimizer.moments()
    trainer.begin_phase("rl", 5)
    assert not trainer.optimizer.moments()
    assert trainer.step(make_samples(2, version=1)).version == 3


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t, s: t.begin_phase("dpo", 5), "phase='dpo'"),
        (lambda t, s: t.begin_phase("rl", 0), "total_steps=0"),
        (lambda t, s: t.sft_step(s), r"phase is rl: call begin_phase\('sft'"),
        (lambda t, s: t.step([]), "no trainable token in this batch"),
        (lambda t, s: t.step([], num_tokens=5), "no trainable token in this batch"),
        (lambda t, s: t.step(s, num_tokens=0), "num_tokens=0"),
        (
            lambda t, s: t.step([replace(x, versions=span(9, len(x.ids))) for x in s]),
            "version 9 is newer than the trainer's 0",
        ),
        (lambda t, s: t.step([replace(s[0], temperature=0.0)]), "greedy"),
    ],
)
def test_misuse_is_refused_with_a_remedy(make_model, make_samples, act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act(trainer_of(make_model()), make_samples(2))


def test_imitating_nothing_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="no trainable token in this batch"):
        trainer_of(make_model(), phase="sft").sft_step([], num_tokens=5)


def test_nothing_can_be_done_before_a_phase_begins(make_model, make_samples) -> None:
    with pytest.raises(ValueError, match="begin_phase"):
        LocalTrainer(make_model()).step(make_samples(2))


def test_an_unknown_knob_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        TrainerConfig.model_validate({"sft": {"learning_rate": 1.0}})
    assert TrainerConfig(sft=SftConfig(lr=0.5)).sft.adam_lr == SftConfig().adam_lr
