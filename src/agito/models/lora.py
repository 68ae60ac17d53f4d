"""Low-rank adapters (arXiv:2106.09685) on a decoder, in peft's layout: y = W x + (alpha / rank) B A x.

The decoder's own weights are frozen in place. Only A and B learn; B starts at zero, so the adapted decoder
initially computes the same as before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agito.errors import CorruptCheckpoint, NotFound
from agito.models.config import PROJECTIONS, LoraConfig, UnsupportedCheckpoint
from agito.models.families import damaged, read_json
from agito.models.manifest import MANIFEST_NAME, Manifest, WeightKind, file_hash, tensor_hashes
from agito.models.network import Decoder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of tensor names in peft's files
# peft fields that change the computation and are not implemented, with the only value accepted for each.
_REFUSED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "bias": (None, "none"),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # others change the base too
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
}


class LoraLinear(nn.Linear):
    """A frozen projection with an adapter; the frozen weight keeps its name."""

    def __init__(self, frozen: nn.Linear, config: LoraConfig) -> None:
        super().__init__(frozen.in_features, frozen.out_features, bias=frozen.bias is not None, device="meta")
        self.weight, self.bias = frozen.weight, frozen.bias
        self.scale = config.scale
        device, dtype = frozen.weight.device, torch.promote_types(frozen.weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(torch.zeros(config.rank, frozen.in_features, device=device, dtype=dtype))
        self.lora_B = nn.Parameter(torch.zeros(frozen.out_features, config.rank, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        down, up = self.lora_A.to(input.dtype), (self.lora_B * self.scale).to(input.dtype)
        flat = input.flatten(0, -2)
        # The small part is rounded first, alone, and then the sum. The other way round, what is less than
        # half the distance between two bfloat16 numbers would vanish from what is one of them already.
        total = torch.addmm(F.linear(F.linear(flat, down), up), flat, self.weight.T)
        if self.bias is not None:
            total = total + self.bias
        return total.unflatten(0, input.shape[:-1])

    def merged(self) -> Tensor:
        """The equivalent weight without an adapter; in bfloat16, as near as `dithered` comes."""
        added = self.lora_B @ self.lora_A * self.scale
        if self.weight.dtype is torch.bfloat16:
            return dithered(self.weight.to(added.dtype) + added)
        return self.weight + added.to(self.weight.dtype)


def dithered(exact: Tensor) -> Tensor:
    """In bfloat16, rounded up or down at thresholds that differ from entry to entry, always the same ones.

    What an adapter adds is mostly less than half of the distance between neighbouring bfloat16 numbers.
    Rounded to the nearest, it would vanish: the merged policy would stay where the base is. With thresholds,
    a tenth of a distance moves a tenth of the entries by a whole one, so that sums over many are kept.
    Numbers that bfloat16 has stay as they are.
    """
    thresholds = _thresholds(exact.numel(), exact.device).view(exact.shape)
    bits = exact.float().contiguous().view(torch.int32)
    return ((bits + thresholds) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def _thresholds(count: int, device: torch.device) -> Tensor:
    """int32 of 0 to 65,535; a prime period, so that no two rows of a matrix begin alike."""
    period = torch.randint(
        0, 1 << 16, (65_521,), generator=torch.Generator().manual_seed(0), dtype=torch.int32
    )
    return period.to(device).repeat(-(-count // len(period)))[:count]


def adapt(model: Decoder, config: LoraConfig, *, seed: int) -> Decoder:
    """Freezes the model and adds adapters, in place. A is initialised as in peft, from the seed alone."""
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ValueError("the model has an adapter already")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, nn.Linear) and child in config.targets:
            adapted = LoraLinear(module, config)
            bound = math.sqrt(1 / module.in_features)  # Kaiming uniform with a = sqrt(5)
            drawn = (torch.rand(adapted.lora_A.shape, generator=generator) * 2 - 1) * bound
            with torch.no_grad():
                adapted.lora_A.copy_(drawn)
            setattr(model.get_submodule(parent), child, adapted)
    return model


def has_adapter(model: Decoder) -> bool:
    return any(isinstance(module, LoraLinear) for module in model.modules())


def _frozen(model: Decoder) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith((".lora_A", ".lora_B"))
    }


@torch.no_grad()
def apart(model: Decoder) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """The frozen weights, and A and (alpha / rank) B by the name of the projection."""
    adapters = {
        name: (module.lora_A.detach(), module.lora_B.detach() * module.scale)
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }
    return _frozen(model), adapters


@torch.no_grad()
def merged_weights(model: Decoder) -> dict[str, Tensor]:
    """State dict of the equivalent plain decoder, for engines and for saving full weights."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    return _frozen(model) | {f"{name}.weight": module.merged() for name, module in adapted.items()}


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """A and B by peft's names."""
    return {
        f"{_PREFIX}{name}.weight": parameter.detach()
        for name, parameter in model.named_parameters()
        if name.endswith(("lora_A", "lora_B"))
    }


def save_adapter(
    model: Decoder,
    config: LoraConfig,
    directory: Path | str,
    *,
    base: str,
    version: int = 0,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Writes adapter and manifest. `base`: path or hub id of the adapted model; `extra`: further files to
    write."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(config.targets),
        "use_rslora": config.is_rank_stabilised,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
    }
    weights = {name: tensor.cpu().contiguous() for name, tensor in adapter_weights(model).items()}
    files = {
        ADAPTER_WEIGHTS: safetensors.torch.save(weights, metadata={"format": "pt"}),
        ADAPTER_CONFIG: (json.dumps(written, indent=2) + "\n").encode(),
        **{name: text.encode() for name, text in (extra or {}).items()},
    }
    manifest = Manifest(
        version=version,
        kind=WeightKind.ADAPTER,
        base=0,
        tensors=tensor_hashes(weights),
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    for name, data in (files | {MANIFEST_NAME: manifest.to_json().encode()}).items():
        (directory / name).write_bytes(data)


def read_adapter_config(directory: Path | str) -> LoraConfig:
    """Raises `NotFound`, `CorruptCheckpoint`, or `UnsupportedCheckpoint`, which names the field."""
    path = Path(directory) / ADAPTER_CONFIG
    data = read_json(path)
    for name, allowed in _REFUSED.items():
        if data.get(name) not in allowed:
            raise UnsupportedCheckpoint(f"{path}: {name}={data.get(name)!r}: not implemented")
    try:
        targets: Any = data["target_modules"]
        if not isinstance(targets, list):
            raise UnsupportedCheckpoint(
                f"{path}: target_modules={targets!r}: only a list of projections is implemented"
            )
        return LoraConfig(
            rank=data["r"],
            alpha=float(data["lora_alpha"]),
            targets=tuple(sorted(set(targets), key=_order)),
            is_rank_stabilised=bool(data.get("use_rslora")),
        )
    except (KeyError, TypeError) as error:
        raise damaged(path, repr(error)) from error
    except ValueError as error:
        raise UnsupportedCheckpoint(f"{path}: target_modules or r: {error}") from error


def adapter_base(directory: Path | str) -> Path:
    """The folder of a saved adapter's base model. Raises `NotFound` if it is gone, and
    `CorruptCheckpoint`."""
    path = Path(directory) / ADAPTER_CONFIG
    named = read_json(path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise damaged(path, "base_model_name_or_path is missing")
    if not Path(named).is_dir():
        raise NotFound(
            f"{path}: its base model {named} is not there: put it back, or write its new place into "
            "base_model_name_or_path"
        )
    return Path(named)


@torch.no_grad()
def load_adapter(model: Decoder, directory: Path | str) -> LoraConfig:
    """Adds a saved adapter to a plain model, in place. Raises as `read_adapter_config`; the model is then
    unchanged."""
    config = read_adapter_config(directory)
    weights = _read_weights(Path(directory) / ADAPTER_WEIGHTS)
    _check(model, config, weights, Path(directory) / ADAPTER_WEIGHTS)
    adapt(model, config, seed=0)
    _fill(model, weights)
    return config


def load_adapter_into(model: Decoder, directory: Path | str) -> None:
    """Loads a saved adapter's weights into a model with an adapter of the same shape. Raises as
    `load_adapter`."""
    weights = _read_weights(Path(directory) / ADAPTER_WEIGHTS)
    _check(model, read_adapter_config(directory), weights, Path(directory) / ADAPTER_WEIGHTS)
    _fill(model, weights)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise NotFound(f"{path} is not there: not an adapter")
    try:
        manifest = path.with_name(MANIFEST_NAME)
        if manifest.exists() and Manifest.from_json(manifest.read_text()).files[path.name] != file_hash(path):
            raise damaged(path, f"its hash is not the one in {MANIFEST_NAME}")
    except (KeyError, ValueError) as error:
        raise damaged(path.with_name(MANIFEST_NAME), repr(error)) from error
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error


@torch.no_grad()
def _fill(model: Decoder, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(("lora_A", "lora_B")):
            parameter.copy_(weights[f"{_PREFIX}{name}.weight"])


def _check(model: Decoder, config: LoraConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    wanted = dict(_shapes(model, config))
    problems = [f"{name} is missing" for name in wanted if name not in weights] + [
        f"{name} is unknown" for name in weights if name not in wanted
    ]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name]
    ]
    if problems:
        raise CorruptCheckpoint(
            f"{path}: {problems[0]} (of {len(problems)} problems): adapter and model do not belong together"
        )


def _shapes(model: Decoder, config: LoraConfig) -> Iterable[tuple[str, tuple[int, int]]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.targets:
            yield f"{_PREFIX}{name}.lora_A.weight", (config.rank, module.in_features)
            yield f"{_PREFIX}{name}.lora_B.weight", (module.out_features, config.rank)


def _order(name: object) -> int:
    return PROJECTIONS.index(name) if isinstance(name, str) and name in PROJECTIONS else len(PROJECTIONS)
