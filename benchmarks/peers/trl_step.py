"""TRL's `GRPOTrainer` with peft: its own training step on given batches, one per line.

    python trl_step.py MODEL lora|full fp32|bf16 THREADS ROWS

Each line of standard input is a batch: token ids of prompts and completions, which completion tokens are
trained, advantages. Everything but generation is done by TRL, transformers and peft: micro-batches of ROWS,
loss, backward pass, clipping, AdamW. Each answer is a line with wall and CPU seconds, and the peak of memory
above the start.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from memory import peak_mb, reset_peak  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]


class Given(GRPOTrainer):
    """Reads samples and rewards instead of generating them."""

    batch: dict[str, Any]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        prompts, completions, trained = (
            torch.tensor(self.batch[name]) for name in ("prompts", "completions", "trained")
        )
        return {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": completions,
            "completion_mask": torch.ones_like(completions),
            "tool_mask": trained,
            "advantages": torch.tensor(self.batch["advantages"], dtype=torch.float32),
            "num_items_in_batch": trained.sum(),
        }


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: Given | None = None
        self.began = (0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        line = sys.stdin.readline()
        if not line.strip():
            sys.exit(0)
        assert self.trainer is not None
        self.trainer.batch = json.loads(line)
        reset_peak()
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wall_s, cpu_s = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb()}), flush=True)


def main() -> None:
    folder, weights, precision, threads, rows = sys.argv[1:]
    torch.set_num_threads(int(threads))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    adapter = None
    if weights == "lora":
        from peft import LoraConfig  # type: ignore[import-not-found]

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        adapter = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=int(rows),
            gradient_accumulation_steps=8 // int(rows),
            num_generations=8,
            max_steps=1000,
            learning_rate=1e-6,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            gradient_checkpointing=False,
            beta=0.0,
            loss_type="dapo",
            disable_tqdm=True,
            max_grad_norm=1.0,
            shuffle_dataset=False,
        )
        trainer = Given(
            model=model,
            args=config,
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=adapter,
            callbacks=[clock],
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_dict({"prompt": ["x"] * 64}),
        )
        clock.trainer = trainer
        trainer.train()


if __name__ == "__main__":
    main()
