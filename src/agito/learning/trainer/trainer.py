"""The optimizer step: samples in, better weights and metrics out.

The trainer knows nothing of ranks, groups or worlds: each rank calls it with its own samples, and sums go
through a `Reducer`. It is bitwise deterministic for the same build, thread count, ranks and samples. With one
minibatch the update does not depend on how samples are spread over ranks; with several, each rank splits its
own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agito.learning.losses.drift_by_age import SUMS_BY_AGE, metrics_by_age, sums_by_age
from agito.learning.losses.meters import PolicyMeters, PolicyTokens
from agito.learning.losses.packing import Packed, require_sampled, split_minibatches
from agito.learning.losses.registry import LOSSES
from agito.learning.losses.sampler_agreement import BOUNDS, NUM_SUMS, agreement_sums, require_agreement
from agito.learning.losses.sft import token_cross_entropy
from agito.learning.trainer.config import Phase, TrainerConfig
from agito.learning.trainer.muon import iteration_dtype
from agito.learning.trainer.optimizer import Ending, PhaseOptimizer, suits_muon
from agito.learning.trainer.passes import traverse
from agito.learning.trainer.policy_model import PolicyModel, can_share
from agito.learning.trainer.reducer import OneRank, Reducer
from agito.learning.trainer.sharing import Block, plan_blocks, worth_sharing
from agito.protocols import StepStats
from agito.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A trainer's position. Raises `ValueError` for an impossible one."""

    phase: Phase | None
    total_steps: int
    phase_step: int
    version: int
    ending: Ending | None = None  # of a phase that was shortened

    def __post_init__(self) -> None:
        for name in ("total_steps", "phase_step", "version"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name}={value!r}: need a whole number from 0 on")


class LocalTrainer:
    """Owns the learning weights and changes `model` in place. `version` counts the steps taken on these
    weights."""

    def __init__(
        self,
        model: PolicyModel,
        config: TrainerConfig | None = None,
        *,
        reducer: Reducer | None = None,
        version: int = 0,
    ) -> None:
        self.model = model
        self.config = config or TrainerConfig()
        self.reducer: Reducer = reducer or OneRank()
        self.version = version
        self.phase: Phase | None = None
        self.total_steps = 0
        self.phase_step = 0  # steps taken in this phase
        self._optimizer: PhaseOptimizer | None = None
        self._parameters = [parameter for _, parameter in model.named_parameters()]
        self._bounds = BOUNDS.get(self._parameters[0].dtype) if self.config.check_on_policy else None
        if self.config.kept_tokens is not None and not can_share(model):
            raise ValueError(
                f"keep_activations={self.config.keep_activations}: this network cannot compute them again; "
                "keep them, and lower micro_tokens"
            )
        shares = self.config.share_prefixes if can_share(model) else "never"
        size = sum(parameter.numel() for parameter in self._parameters)
        self._worth = {"never": None, "always": 1, "auto": worth_sharing(size)}[shares]

    @property
    def optimizer(self) -> PhaseOptimizer:
        """The current phase's optimizer. Raises `ValueError` before the first phase."""
        if self._optimizer is None:
            raise ValueError("no phase has begun: call begin_phase('sft' or 'rl', total_steps) first")
        return self._optimizer

    def begin_phase(self, phase: Phase, total_steps: int) -> None:
        """Discards the optimizer's moments and starts the phase's schedule over `total_steps` calls."""
        _check_phase(phase, total_steps)
        if self._optimizer is not None:
            self._optimizer.discard()
        self._optimizer = self._new_optimizer(phase, total_steps)
        self.phase, self.total_steps, self.phase_step = phase, total_steps, 0

    def shorten_phase(self, total_steps: int) -> None:
        """The phase ends after `total_steps` steps of it instead: until then the learning rate falls evenly,
        from what it is now to the schedule's floor. Raises `ValueError` for what is past, or later than
        planned.
        """
        if not self.phase_step < total_steps <= self.total_steps:
            raise ValueError(
                f"total_steps={total_steps}: {self.phase_step} of {self.total_steps} steps are done"
            )
        self.optimizer.shorten(self.phase_step, total_steps)
        self.total_steps = total_steps

    def restore(self, weights: Mapping[str, Tensor], moments: dict[str, Tensor], counters: Counters) -> None:
        """Continues from the state of a trainer of the same shape and configuration. Raises `ValueError`,
        with nothing changed, for an impossible state."""
        parameters = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        for name, parameter in parameters.items():
            if name not in weights or (weights[name].shape, weights[name].dtype) != (
                parameter.shape,
                parameter.dtype,
            ):
                raise ValueError(f"weights: {name} is missing, or of another shape or precision")
        if unknown := weights.keys() - parameters.keys():
            raise ValueError(f"weights: {min(unknown)} is unknown")
        optimizer = None
        if counters.phase is not None:
            optimizer = self._new_optimizer(counters.phase, counters.total_steps)
            optimizer.load_moments(moments, is_fresh=counters.phase_step == 0)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        if self._optimizer is not None:
            self._optimizer.discard()
        if optimizer is not None:
            optimizer.ending = counters.ending
        self._optimizer, self.phase, self.total_steps = optimizer, counters.phase, counters.total_steps
        self.phase_step, self.version = counters.phase_step, counters.version

    def _new_optimizer(self, phase: Phase, total_steps: int) -> PhaseOptimizer:
        _check_phase(phase, total_steps)
        config = self.config.sft if phase == "sft" else self.config.rl
        wanted = self.config.muon_dtype
        dtype = iteration_dtype(self._parameters[0].device) if wanted == "auto" else getattr(torch, wanted)
        has_muon = (
            suits_muon(self.model) if self.config.optimizer == "auto" else self.config.optimizer == "muon"
        )
        return PhaseOptimizer(
            self.model,
            config,
            total_steps=total_steps,
            muon_dtype=dtype,
            reducer=self.reducer,
            has_muon=has_muon,
        )

    def sft_step(self, samples: Sequence[Sample], *, num_tokens: float | None = None) -> StepStats:
        """One supervised step on the trainable tokens; advantages and log-probabilities are ignored.

        `num_tokens` divides the loss. By default it is the trainable tokens of all ranks, which costs one
        reduction.
        """
        self._require("sft")
        packs = self._pack(samples)
        counted = float(sum(part.num_tokens for part in packs))
        total = _positive(self.reducer.sum([counted])[0] if num_tokens is None else num_tokens)
        self.optimizer.zero()
        nll = 0.0

        def loss_of(part: Packed, logp_T: Tensor, _: Tensor) -> Tensor:
            nonlocal nll
            loss = token_cross_entropy(logp_T, num_tokens=total)
            nll += float(loss.detach()) * total
            return loss

        traverse(
            self.model,
            packs,
            loss_of,
            self.optimizer.accumulate,
            at_temperature=False,
            has_entropy=False,
            kept_tokens=self.config.kept_tokens,
        )
        sums = torch.tensor([nll, counted], device=self._parameters[0].device)
        figures = self._apply(along=sums)
        nll, counted = sums.tolist()
        return self._finish({"sft/loss_nats": nll / _positive(counted), "sft/tokens": counted, **figures})

    def step(
        self, samples: Sequence[Sample], *, num_tokens: float | None = None, rate: float = 1.0
    ) -> StepStats:
        """One batch of policy gradient in `minibatches` optimizer steps; pi_old is the weights before the
        first.

        `num_tokens` is N over all ranks for the whole batch, before any rejection; by default, the given
        trainable tokens. Minibatches share it in proportion to their tokens. `rate` scales the learning
        rates: Muon's step length does not depend on the gradient, so a small, noisy batch needs a smaller
        step.

        Raises `ValueError` for samples that no policy of this trainer sampled. Raises `FloatingPointError`
        for a gradient that is not finite; the weights may then be half-way through the batch.
        """
        self._require("rl")
        require_sampled(samples)
        self._require_past(samples)
        minibatches = [
            self._pack(part) for part in split_minibatches(_trained(samples), self.config.minibatches)
        ]
        counts = self.reducer.sum([float(sum(part.num_tokens for part in packs)) for packs in minibatches])
        total = _positive(sum(counts))
        scale = (total if num_tokens is None else _positive(num_tokens)) / total
        first = next(index for index, count in enumerate(counts) if count)
        frozen = [
            None if index == first else self._old_logprobs(packs) for index, packs in enumerate(minibatches)
        ]

        meters, max_w, last = PolicyMeters(), 0.0, {}
        by_age: list[float] | None = None
        for packs, old, count in zip(minibatches, frozen, counts, strict=True):
            if not count:
                continue
            found, found_max_w, found_by_age = self._accumulate(packs, old, num_tokens=count * scale)
            meters, max_w = meters + found, max(max_w, found_max_w)
            by_age = (
                found_by_age
                if by_age is None
                else [mine + theirs for mine, theirs in zip(by_age, found_by_age, strict=True)]
            )
            last = self._apply(rate)
        ended = [part for packs in minibatches for block in packs for part in block.all_ended()]
        ages, oldest = (
            [float(part.ages_T.sum()) for part in ended],
            [float(part.ages_T.max()) for part in ended],
        )
        (age_sum,), (max_age, max_w) = (
            self.reducer.sum([sum(ages)]),
            self.reducer.max([max(oldest, default=0.0), max_w]),
        )
        figures = {
            "policy/loss": meters.loss / (total * scale),
            "policy/tokens": meters.tokens,
            "policy/age_mean_versions": age_sum / total,
            "policy/age_max_versions": max_age,
            **meters.metrics(max_w),
            **(metrics_by_age(by_age) if by_age and max_age else {}),
            **last,
        }
        return self._finish(figures)

    def _accumulate(
        self, packs: list[Block], old: list[Tensor] | None, *, num_tokens: float
    ) -> tuple[PolicyMeters, float, list[float]]:
        """Gradients of one minibatch; its meters, its largest w, its sums by age. Without `old`, pi_old is pi
        itself, frozen."""
        self.optimizer.zero()
        loss_of, config = LOSSES[self.config.loss.name], self.config.loss
        meters, max_w, agreed = PolicyMeters(), 0.0, [0.0] * NUM_SUMS
        by_age: Tensor | float = 0.0
        frozen = None if old is None else iter(old)

        def visit(part: Packed, logp_T: Tensor, entropy_T: Tensor) -> Tensor:
            nonlocal meters, max_w, agreed, by_age
            logp_old_T = logp_T.detach() if frozen is None else next(frozen)
            tokens = PolicyTokens(
                logp_T=logp_T,
                logp_old_T=logp_old_T,
                logp_mu_T=part.logp_mu_T,
                advantages_T=part.advantages_T,
                entropy_T=entropy_T,
                sequence_T=part.sequence_T,
                num_sequences=part.num_sequences,
            )
            loss, found, found_max_w = loss_of(tokens, num_tokens=num_tokens, config=config)
            meters, max_w = meters + found, max(max_w, found_max_w)
            log_w_T = logp_old_T - part.logp_mu_T
            if self._bounds:
                found_agreed = agreement_sums(log_w_T[part.is_fresh_T], self._bounds)
                agreed = [mine + theirs for mine, theirs in zip(agreed, found_agreed, strict=True)]
            by_age = by_age + sums_by_age(part.ages_T, log_w_T)
            return loss

        kept = self.config.kept_tokens
        traverse(self.model, packs, visit, self.optimizer.accumulate, kept_tokens=kept)
        ages = by_age.flatten().tolist() if isinstance(by_age, Tensor) else [0.0] * SUMS_BY_AGE
        count = len(meters.sums())
        sums = self.reducer.sum([*meters.sums(), *agreed, *ages])
        if self._bounds:
            require_agreement(sums[count : count + NUM_SUMS], self._bounds, version=self.version)
        return PolicyMeters.of(sums[:count]), max_w, sums[count + NUM_SUMS :]

    def _apply(self, rate: float = 1.0, along: Tensor | None = None) -> dict[str, float]:
        """Reduces, clips and steps; `along` is summed over ranks in the same exchange."""
        self.reducer.sum_([*self.optimizer.gradients(), *([] if along is None else [along])])
        norm = self.optimizer.apply(self.phase_step, rate=rate)
        self.optimizer.zero()
        return {"train/grad_norm": norm, "train/lr_factor": self.optimizer.factor(self.phase_step)}

    def _finish(self, metrics: dict[str, float]) -> StepStats:
        self.phase_step += 1
        self.version += 1
        return StepStats(version=self.version, values=metrics)

    @torch.no_grad()
    def _old_logprobs(self, packs: list[Block]) -> list[Tensor]:
        found: list[Tensor] = []
        traverse(self.model, packs, lambda part, logp_T, entropy_T: found.append(logp_T), has_entropy=False)
        return found

    def _pack(self, samples: Sequence[Sample]) -> list[Block]:
        trained, device = _trained(samples), self._parameters[0].device
        return plan_blocks(
            trained,
            max_tokens=self.config.micro_tokens,
            worth=self._worth,
            version=self.version,
            device=device,
        )

    def _require(self, phase: Phase) -> None:
        if self.phase != phase:
            raise ValueError(f"phase is {self.phase}: call begin_phase({phase!r}, total_steps) first")

    def _require_past(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            newest = max((span.version for span in sample.versions), default=0)
            if newest > self.version:
                raise ValueError(
                    f"sample {sample.attempt}: version {newest} is newer than the trainer's {self.version}"
                )


def _check_phase(phase: str, total_steps: int) -> None:
    if phase not in ("sft", "rl"):
        raise ValueError(f"phase={phase!r}: write 'sft' or 'rl'")
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: need at least 1")


def _trained(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.num_trainable]


def _positive(num_tokens: float) -> float:
    if not num_tokens > 0:
        raise ValueError(f"num_tokens={num_tokens:g}: there is no trainable token in this batch; skip it")
    return num_tokens
