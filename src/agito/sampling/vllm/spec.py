"""How a vLLM server is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROGRAM_VARIABLE = "AGITO_VLLM"  # the environment variable that names vLLM's program
BASE_NAME = "base"  # under which the weights of the server itself are asked for
WORKER = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSlots:
    """How many adapters one batch may mix, how many are kept at hand, and the largest rank.

    `targets` leaves the head out: with one that an adapter might change, vLLM's CPU build fails when a prompt
    is scored beside other requests.
    """

    in_batch: int = 2
    kept: int = 8
    max_rank: int = 16
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """`adapters`: policies are adapters, and nobody samples without one. None: the policy is the server's own
    weights.
    """

    model: Path  # a Hugging Face folder
    context: int  # tokens of one row
    max_num_seqs: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapters: AdapterSlots | None = None
    program: tuple[str, ...] = ("vllm",)
    threads: int | None = None  # of a CPU; None: vLLM's own choice
    kv_cache_gb: int = 1  # on a CPU
    eager: bool = True  # steps are launched one by one: it starts sooner, and on a CPU runs as fast
    options: tuple[str, ...] = ()  # further ones of `vllm serve`
    start_s: float = 900.0  # it imports torch in three processes, and may compile
    silence_s: float = 300.0  # with requests under way and not one more token computed
    request_s: float = 3600.0  # for one request, its time in the queue included
    end_s: float = 5.0  # for it to end by itself when it is asked to
    max_starts: int = 5  # in a row, without an answer in between

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
                str(slots.max_rank),
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
        """Nothing of the environment that Agito runs in reaches vLLM's Python, and vLLM reaches nobody
        outside.
        """
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
    """vLLM's program: what the variable `AGITO_VLLM` names, else that of `make vllm`; None where there is
    neither.
    """
    named = os.environ.get(PROGRAM_VARIABLE)
    path = Path(named) if named else Path(".venv-vllm/bin/vllm")
    return (str(path.absolute()),) if path.is_file() else None
