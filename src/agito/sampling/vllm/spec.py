"""How a vLLM server is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROGRAM_VARIABLE = "AGITO_VLLM"  # names vLLM's program
BASE_NAME = "base"  # name of the server's own weights
WORKER = Path(__file__).parent / "peers"
_RANK_LIMITS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank accepts


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSlots:
    """How many adapters one batch may mix, how many stay loaded, and the largest rank.

    `targets` excludes the head: with an adaptable head, vLLM's CPU build fails when a prompt is scored beside
    other requests.
    """

    in_batch: int = 2
    kept: int = 8
    max_rank: int = 16
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if not 1 <= self.max_rank <= _RANK_LIMITS[-1]:
            raise ValueError(f"max_rank={self.max_rank}: vLLM takes adapters of rank 1 to {_RANK_LIMITS[-1]}")

    @property
    def rank_limit(self) -> int:
        """The smallest of vLLM's limits that leaves room for `max_rank`."""
        return next(limit for limit in _RANK_LIMITS if limit >= self.max_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """`adapters`: policies are adapters, and the base model is not sampled. None: the policy is the server's
    own weights."""

    model: Path  # a Hugging Face folder
    context: int  # tokens per row
    max_num_seqs: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapters: AdapterSlots | None = None
    program: tuple[str, ...] = ("vllm",)
    threads: int | None = None  # on a CPU; None: vLLM's choice
    kv_cache_gb: int = 1  # on a CPU
    eager: bool = True  # without graphs: starts sooner, and is as fast on a CPU
    # A seed for each request. vLLM's CPU build ends when a seeded prompt is computed in pieces, and draws on
    # a GPU are slower.
    is_seeded: bool = False
    options: tuple[str, ...] = ()  # extra options of `vllm serve`
    start_s: float = 900.0  # imports torch in three processes, and may compile
    silence_s: float = 300.0  # without a new token while requests are running
    request_s: float = 3600.0  # per request, including queueing
    end_s: float = 5.0  # to end by itself when asked
    max_starts: int = 5  # consecutive, without an answer

    def command(self, socket: Path) -> list[str]:
        slots = self.adapters
        lora = (
            []
            if slots is None
            else [
                "--enable-lora",
                "--max-loras",
                str(slots.in_batch),
                "--max-cpu-loras",
                str(slots.kept),
                "--max-lora-rank",
                str(slots.rank_limit),
                "--lora-target-modules",
                *slots.targets,
            ]
        )
        return [
            *self.program,
            "serve",
            str(self.model),
            "--uds",
            str(socket),
            "--served-model-name",
            BASE_NAME,
            "--dtype",
            self.dtype,
            "--max-model-len",
            str(self.context),
            "--max-num-seqs",
            str(self.max_num_seqs),
            "--generation-config",
            "vllm",
            "--enable-scale-out",
            "--logprobs-mode",
            "processed_logprobs",
            "--worker-extension-cls",
            "agito_vllm_worker.Weights",
            "--skip-tokenizer-init",
            "--disable-uvicorn-access-log",
            *(["--enforce-eager"] if self.eager else []),
            *lora,
            *self.options,
        ]

    def environment(self) -> dict[str, str]:
        """vLLM's Python inherits nothing from Agito's environment, and vLLM cannot reach the network."""
        ours = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
        }
        threads = (
            {}
            if self.threads is None
            else {"OMP_NUM_THREADS": str(self.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        )
        return (
            ours
            | threads
            | {
                "PYTHONPATH": str(WORKER),
                "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gb),
                "VLLM_SERVER_DEV_MODE": "1",
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
            }
        )


def installed() -> tuple[str, ...] | None:
    """vLLM's program: named by the variable `AGITO_VLLM`, else that of `make vllm`; None if there is
    neither."""
    named = os.environ.get(PROGRAM_VARIABLE)
    path = Path(named) if named else Path(".venv-vllm/bin/vllm")
    return (str(path.absolute()),) if path.is_file() else None
