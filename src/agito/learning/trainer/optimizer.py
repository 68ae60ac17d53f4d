"""One optimizer made of two: Muon for hidden matrices, AdamW for the rest (or for everything), under one
schedule and one gradient clip.

Half-precision weights learn in float32: each has a master copy that accumulates gradients over micro-batches
and takes the step; the weight is the rounded master. If other code changes the weight, the master continues
from it. Ranks that share memory have masters and their moments of AdamW once for all of them, and each takes
the step for its part (arXiv:1910.02054, stage 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agito.learning.trainer.config import PhaseConfig
from agito.learning.trainer.muon import Muon
from agito.learning.trainer.policy_model import PolicyModel
from agito.learning.trainer.reducer import OneRank, Reducer

# Embeddings over the vocabulary; thin low-rank factors.
_NOT_HIDDEN = frozenset({"embed_tokens", "lm_head", "lora_A", "lora_B"})
_PRE_TRAINED = 20_000_000  # parameters from which a model counts as pre-trained


class Split(NamedTuple):
    """Names of the trained parameters, by optimizer."""

    matrices: tuple[str, ...]  # Muon
    tables: tuple[str, ...]  # AdamW, with weight decay
    vectors: tuple[str, ...]  # AdamW, without


def split_parameters(model: PolicyModel, *, has_muon: bool = True) -> Split:
    """By Hugging Face name and rank; frozen parameters are left out, tied ones appear once."""
    named = [
        (name, parameter.ndim) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    is_table = {name: not has_muon or not _NOT_HIDDEN.isdisjoint(name.split(".")) for name, _ in named}
    return Split(
        matrices=tuple(name for name, ndim in named if ndim == 2 and not is_table[name]),
        tables=tuple(name for name, ndim in named if ndim >= 2 and (is_table[name] or ndim > 2)),
        vectors=tuple(name for name, ndim in named if ndim < 2),
    )


def suits_muon(model: PolicyModel) -> bool:
    """Whether its hidden matrices were initialised at random, which small models are. Pre-trained weights and
    adapters use AdamW."""
    return sum(parameter.numel() for _, parameter in model.named_parameters()) < _PRE_TRAINED


def schedule(step: int, total_steps: int, *, warmup: float, decay: float, floor: float) -> float:
    """Factor of the learning rate at `step` (from 0): linear up over `warmup`, flat, then linear down to
    `floor` over `decay`.

    `warmup` and `decay` are fractions of `total_steps`. The floor is reached just after the last step, and
    kept.
    """
    up = (step + 1) / (warmup * total_steps) if warmup > 0 else 1.0
    decay_steps = min(decay, 1.0 - warmup) * total_steps
    down = max(0.0, total_steps - step) / decay_steps if decay_steps > 0 else 1.0
    return min(1.0, up) * (floor + (1.0 - floor) * min(1.0, down))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A phase that ends before the `planned` steps: from its step `first` on, the learning rate falls in a
    straight line from where it was, `begun`, to the floor."""

    first: int
    planned: int
    begun: float

    def factor(self, step: int, total_steps: int, *, floor: float) -> float:
        left = max(total_steps - step, 0) / (total_steps - self.first)
        return floor + (self.begun - floor) * left


class PhaseOptimizer:
    """Moments and learning rates of one phase."""

    def __init__(
        self,
        model: PolicyModel,
        config: PhaseConfig,
        *,
        total_steps: int,
        muon_dtype: torch.dtype,
        reducer: Reducer | None = None,
        has_muon: bool = True,
    ) -> None:
        self._config = config
        self.total_steps = total_steps
        self.ending: Ending | None = None
        self._reducer = reducer or OneRank()
        split = split_parameters(model, has_muon=has_muon)
        weights = dict(model.named_parameters())
        self._weights = {name: weights[name] for part in split for name in part}
        self._masters = {name: Master(weight) for name, weight in self._weights.items() if _is_narrow(weight)}
        # The parameters that take the step.
        self._named = self._weights | {name: master.value for name, master in self._masters.items()}
        decayed = {
            "params": [self._named[name] for name in split.tables],
            "weight_decay": config.weight_decay,
        }
        plain = {"params": [self._named[name] for name in split.vectors], "weight_decay": 0.0}
        groups = [group for group in (decayed, plain) if group["params"]]
        self._rates: list[tuple[torch.optim.Optimizer, float]] = []
        if split.matrices:
            matrices = [self._named[name] for name in split.matrices]
            muon = Muon(
                matrices,
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                dtype=muon_dtype,
                reducer=reducer,
            )
            self._rates.append((muon, config.lr))
        if groups:
            self._rates.append(
                (torch.optim.AdamW(groups, lr=config.adam_lr, betas=config.betas, fused=True), config.adam_lr)
            )
        in_shares = [name for name in self._masters if name not in split.matrices]
        self._owners = (
            _owners({name: self._named[name].numel() for name in in_shares}, self._reducer.num_ranks)
            if self._reducer.shares_memory and not any(each.is_cuda for each in self._named.values())
            else {}
        )
        self._unite()

    def discard(self) -> None:
        """Frees masters and moments at once: PyTorch's optimizers are in cycles of references, and would keep
        them until somebody looks for these."""
        for optimizer, _ in self._rates:
            optimizer.state.clear()
            optimizer.param_groups.clear()
        self._masters.clear()
        self._named.clear()

    def accumulate(self) -> None:
        """Adds the gradients of half-precision weights to their masters. Call it after every backward
        pass."""
        for master in self._masters.values():
            master.accumulate()

    def shorten(self, step: int, total_steps: int) -> None:
        """The phase ends after `total_steps`; `step` is the next one."""
        self.ending = Ending(first=step, planned=self.total_steps, begun=self.factor(step))
        self.total_steps = total_steps

    def factor(self, step: int) -> float:
        config, ending = self._config, self.ending
        if ending is not None and step >= ending.first:
            return ending.factor(step, self.total_steps, floor=config.floor)
        return schedule(
            step,
            self.total_steps if ending is None else ending.planned,
            warmup=config.warmup,
            decay=config.decay,
            floor=config.floor,
        )

    def gradients(self) -> list[Tensor]:
        """Every trained parameter's gradient, in a fixed order; zeros where backward did not reach."""
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._named.values() if parameter.grad is not None]

    def zero(self) -> None:
        for parameter in (*self._named.values(), *self._weights.values()):
            parameter.grad = None

    def apply(self, step: int, *, rate: float = 1.0) -> float:
        """Clips by the global norm and steps at `rate` times the learning rate of `step`; returns the norm
        before clipping.

        Raises `FloatingPointError`, and changes nothing, when the norm is not finite.
        """
        norm = float(nn.utils.clip_grad_norm_(self._named.values(), self._config.grad_clip))
        if not norm < float("inf"):
            raise FloatingPointError(
                f"gradient norm is {norm} at step {step} of the phase: lower the learning rate or the "
                "loss's w_max"
            )
        for name, master in self._masters.items():
            if self._steps(name):
                master.reload()
            else:
                master.value.grad = None  # its owner takes the step
        for optimizer, base in self._rates:
            for group in optimizer.param_groups:
                group["lr"] = base * rate * self.factor(step)
            optimizer.step()
        if self._owners:
            self._reducer.sum([])  # all have taken theirs
        for master in self._masters.values():
            master.write_back()
        return norm

    def _steps(self, name: str) -> bool:
        """Whether this rank takes the step for a parameter."""
        return self._owners.get(name, self._reducer.rank) == self._reducer.rank

    def _unite(self) -> None:
        """Puts masters and their moments into shared memory, one by one: they never exist in every rank."""
        for name in self._owners:
            value = self._named[name]
            adam = next(each for each, _ in self._rates if isinstance(each, torch.optim.AdamW))
            state = {"step": torch.zeros(()), **{moment: torch.zeros_like(value) for moment in _ADAM}}
            self._reducer.unite([value, *state.values()])
            adam.state[value] = state

    def moments(self) -> dict[str, Tensor]:
        """Optimizer state by `parameter name/moment`; empty before the first step."""
        state = {
            parameter: moments
            for optimizer, _ in self._rates
            for parameter, moments in optimizer.state.items()
        }
        if any(not each.get("step", 1) for each in state.values()):
            return {}  # they are in their place, but nothing has been added to them
        found = {
            f"{name}/{moment}": value
            for name, at in self._named.items()
            for moment, value in state.get(at, {}).items()
        }
        masters = {f"{name}/{_MASTER}": master.value.detach() for name, master in self._masters.items()}
        return found | masters if found else {}

    def load_moments(self, moments: dict[str, Tensor], *, is_fresh: bool) -> None:
        """The inverse of `moments`. `is_fresh`: no step has been taken, so there are none.

        Raises `ValueError`, with nothing changed, unless there is exactly the state that steps leave for
        every trained parameter.
        """
        owner = {
            parameter: optimizer
            for optimizer, _ in self._rates
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        kinds = (
            {}
            if is_fresh
            else {name: _MOMENTS[type(owner[parameter])] for name, parameter in self._named.items()}
        )
        wanted = {f"{name}/{moment}" for name, each in kinds.items() for moment in each}
        wanted |= set() if is_fresh else {f"{name}/{_MASTER}" for name in self._masters}
        if wanted != moments.keys():
            raise ValueError(
                f"moments: {', '.join(sorted(wanted ^ moments.keys())[:3])}: missing, or of another optimizer"
            )
        for key, value in moments.items():
            name, _, moment = key.rpartition("/")
            if moment != "step" and value.shape != self._named[name].shape:
                raise ValueError(
                    f"moments: {key} has shape {tuple(value.shape)}, not {tuple(self._named[name].shape)}"
                )
        for name, parameter in self._named.items():
            if name not in self._owners:
                owner[parameter].state.pop(parameter, None)
        for key, value in moments.items():
            name, _, moment = key.rpartition("/")
            parameter = self._named[name]
            if moment == _MASTER:
                parameter.detach().copy_(value)
                continue
            state = owner[parameter].state[parameter]
            if moment in state:
                state[moment].copy_(value)  # in shared memory
            else:
                state[moment] = value.to(parameter.device, copy=True)


class Master:
    """The float32 master copy of a half-precision weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        self._weight = weight
        self.value = nn.Parameter(weight.detach().float())

    def accumulate(self) -> None:
        if self._weight.grad is None:
            return
        if self.value.grad is None:
            self.value.grad = self._weight.grad.float()
        else:
            self.value.grad.add_(self._weight.grad)
        self._weight.grad = None

    @torch.no_grad()
    def reload(self) -> None:
        """Continues from the weight if it is no longer the published one."""
        if not torch.equal(self.value.to(self._weight.dtype), self._weight):
            self.value.copy_(self._weight)

    @torch.no_grad()
    def write_back(self) -> None:
        self._weight.copy_(self.value)


def _is_narrow(weight: Tensor) -> bool:
    return weight.dtype in (torch.bfloat16, torch.float16)


def _owners(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """Each rank has about as much, by name alone."""
    loads, owners = [0] * num_ranks, dict[str, int]()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


_MASTER = "master"  # beside the moments
_ADAM = ("exp_avg", "exp_avg_sq")
_MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    Muon: ("momentum_buffer",),
    torch.optim.AdamW: ("step", *_ADAM),
}
