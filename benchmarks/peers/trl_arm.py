"""TRL's `GRPOTrainer` from a checkpoint of ours, with peft where that is an adapter, in our environment,
until its time is up.

    python trl_arm.py RUN OUT SECONDS THREADS LR

RUN is a finished run; training starts from its `checkpoints/step-0`, in the precision of the run. Trainer,
loss, optimizer and generation are those of TRL and transformers; `rollout_func` makes the turns: all attempts
of a step at once, each turn as one left-padded batch (as in TRL's own tool loop), with concurrent tools.
World, prompts, limits, parsing and grading are the environment's, through the same harness. Checkpoints go to
OUT/checkpoints, and OUT/seconds.json maps each to its seconds of training; saving time is not counted.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import torch
from datasets import Dataset  # type: ignore[import-not-found]
from padding import left_padded  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

from agito import config
from agito.harness import SoloHarness, solo
from agito.protocols import MAIN, Sampled, SampleRequest
from agito.recipe import Recipe
from agito.rollout.attempt import AttemptRunner, Plan
from agito.runtime.policy_sources import renderer_of
from agito.runtime.run_context import environment_of
from agito.training.loop import RL_BASE
from agito.types import Attempt, AttemptId, FinishReason, VersionSpan

SAVE_S = 20.0  # seconds of training between two checkpoints
OURS = ("manifest.json", "meta.json", "trainer.json")  # of a checkpoint, and no other program's
MICRO = 4  # attempts in one pass of a pre-trained model, whose logits are large


class Generating:
    """An engine for the harness: once every open row waits for tokens, generates all of them as one batch."""

    def __init__(self, model: Any, context: int) -> None:
        self.context = context
        self.waiting: dict[GeneratingRow, SampleRequest] = {}
        self.num_open = 0
        self._model = model

    def open(self, seed: int) -> GeneratingRow:
        self.num_open += 1
        return GeneratingRow(self)

    def generate_if_all_wait(self) -> None:
        if self.waiting and len(self.waiting) == self.num_open:
            waiting, self.waiting = self.waiting, {}
            for row, sampled in zip(waiting, self._generate(waiting), strict=True):
                row.resume(sampled)

    @torch.inference_mode()
    def _generate(self, waiting: dict[GeneratingRow, SampleRequest]) -> list[tuple[list[int], list[float]]]:
        requests = list(waiting.values())
        ids, mask = left_padded([row.ids for row in waiting])
        width = ids.shape[1]
        temperature, stops = requests[0].temperature, list(requests[0].stop_ids)
        options = GenerationConfig(
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            pad_token_id=stops[0],
            eos_token_id=stops,
            return_dict_in_generate=True,
            output_logits=True,
        )
        was_training = self._model.training
        self._model.eval()
        out = self._model.generate(ids, attention_mask=mask, generation_config=options)
        self._model.train(was_training)
        said = out.sequences[:, width:]
        logprobs = (
            (torch.stack(out.logits, 1) / temperature).log_softmax(-1).gather(2, said[..., None])[..., 0]
        )
        found: list[tuple[list[int], list[float]]] = []
        for at, request in enumerate(requests):
            tokens = said[at].tolist()
            stop = next((index + 1 for index, token in enumerate(tokens) if token in stops), len(tokens))
            stop = min(stop, request.max_tokens)
            found.append((tokens[:stop], logprobs[at, :stop].tolist()))
        return found


class GeneratingRow:
    def __init__(self, engine: Generating) -> None:
        self.ids: list[int] = []
        self._engine = engine
        self._event, self._sampled = anyio.Event(), ([0], [0.0])

    async def sample(self, request: SampleRequest) -> Sampled:
        self.ids.extend(request.extend)
        self._event = anyio.Event()
        self._engine.waiting[self] = request
        self._engine.generate_if_all_wait()
        await self._event.wait()
        ids, logprobs = self._sampled
        self.ids.extend(ids)
        return Sampled(
            ids=array("i", ids),
            logprobs=array("f", logprobs),
            stopped=FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH,
            versions=(VersionSpan(start=0, stop=len(request.extend) + len(ids), version=0),),
        )

    def resume(self, sampled: tuple[list[int], list[float]]) -> None:
        self._sampled = sampled
        self._event.set()

    def branch(self, seed: int) -> GeneratingRow:
        raise NotImplementedError

    async def close(self) -> None:
        self._engine.num_open -= 1
        self._engine.generate_if_all_wait()


class Worlds:
    """Attempts at training tasks, cycling through all cells."""

    def __init__(self, recipe: Recipe, start: Path) -> None:
        self._recipe = recipe
        self._environment = environment_of(recipe)
        self._renderer = renderer_of(start, recipe)
        agents = solo(self._renderer, temperature=recipe.rl.temperature)
        self._runner = AttemptRunner(self._environment, SoloHarness(), agents, seed=recipe.seed)
        families, levels = (
            recipe.env.families or self._environment.families,
            recipe.env.levels or self._environment.levels,
        )
        self._cells = [(family, level) for family in families for level in levels]

    async def attempts(self, numbers: Sequence[int], model: Any) -> list[Attempt]:
        """`numbers` of tasks, each repeated as often as it is attempted."""
        engine = Generating(model, self._recipe.compute.context)
        found: dict[int, Attempt] = {}

        def task(number: int) -> Any:
            family, level = self._cells[number % len(self._cells)]
            return self._environment.task(
                split="train", index=RL_BASE + number, seed=self._recipe.seed, family=family, level=level
            )

        async def one(at: int, number: int, slot: int) -> None:
            found[at] = await self._runner.run(
                Plan(task=task), AttemptId(group=number, slot=slot), {MAIN: engine}
            )

        seen: dict[int, int] = {}
        async with anyio.create_task_group() as tasks:
            for at, number in enumerate(numbers):
                slot = seen[number] = seen.get(number, -1) + 1
                tasks.start_soon(one, at, number, slot)
        return [found[at] for at in range(len(numbers))]


def sequences(attempts: Sequence[Attempt]) -> dict[str, list[Any]]:
    """The result of `rollout_func`: the policy's own tokens have mask 1. A void attempt has no reward."""
    told: dict[str, list[Any]] = {
        name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "reward")
    }
    for attempt in attempts:
        if not attempt.trajectory.turns:  # void before anything was sampled: one token, which is not trained
            for name, value in zip(told, ([0], [0], [0.0], [0], None), strict=True):
                told[name].append(value)
            continue
        tokens, turns = attempt.trajectory.segments[0].tokens, attempt.trajectory.turns
        opening = turns[0].start
        mask = [0] * len(tokens.ids)
        for turn in turns:
            mask[turn.start : turn.stop] = [1] * (turn.stop - turn.start)
        told["prompt_ids"].append(list(tokens.ids[:opening]))
        told["completion_ids"].append(list(tokens.ids[opening:]))
        told["logprobs"].append(
            [value if said else 0.0 for value, said in zip(tokens.logprobs, mask, strict=True)][opening:]
        )
        told["env_mask"].append(mask[opening:])
        told["reward"].append(attempt.verdict.reward if attempt.is_scored else None)
    return told


class Clock(TrainerCallback):
    """Saves every `SAVE_S` seconds of training, and stops when the time is up."""

    def __init__(self, out: Path, tokenizer_files: Path, budget_s: float) -> None:
        self._out, self._files, self._budget_s = out, tokenizer_files, budget_s
        self._began, self._saved_at = time.monotonic(), 0.0
        self.seconds: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        spent_s = time.monotonic() - self._began
        if spent_s - self._saved_at >= SAVE_S or spent_s >= self._budget_s:
            self._saved_at = spent_s
            path = self._out / "checkpoints" / f"step-{state.global_step}"
            given["model"].save_pretrained(path)
            for file in self._files.iterdir():  # tokenizer, template, what ends a turn
                is_missing = file.suffix in (".json", ".jinja") and not (path / file.name).exists()
                if is_missing and file.name not in OURS:
                    shutil.copy(file, path / file.name)
            self.seconds[path.name] = round(spent_s, 2)
            (self._out / "seconds.json").write_text(json.dumps(self.seconds))
            self._began = time.monotonic() - spent_s
        control.should_training_stop = spent_s >= self._budget_s


def configuration(recipe: Recipe, out: Path, rate: float) -> GRPOConfig:
    """A step of TRL has as many attempts as one of the recipe's, in one batch; in micro-batches where the
    vocabulary is large.
    """
    whole = recipe.rl.groups * recipe.rl.group_size
    micro = MICRO if recipe.model.path else whole
    return GRPOConfig(
        output_dir=str(out / "trainer"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=whole // micro,
        num_generations=recipe.rl.group_size,
        max_completion_length=recipe.compute.context,
        temperature=recipe.rl.temperature,
        beta=0.0,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_steps=100_000,
        seed=recipe.seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )


def opened(start: Path, dtype: torch.dtype) -> Any:
    if not (start / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(start, dtype=dtype)
    from peft import PeftConfig, PeftModel  # type: ignore[import-not-found]

    base = PeftConfig.from_pretrained(start).base_model_name_or_path
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, start, is_trainable=True)


def main() -> None:
    run, out, seconds, threads, rate = Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:6])
    torch.set_num_threads(int(threads))
    recipe = config.read(Recipe, run / "config.toml")
    start = run / "checkpoints" / "step-0"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "config.toml", out / "config.toml")
    model = opened(start, getattr(torch, recipe.model.dtype))
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
    worlds = Worlds(recipe, start)
    clock = Clock(out, start, seconds)
    arguments = configuration(recipe, out, rate)
    with anyio.from_thread.start_blocking_portal() as portal:

        def rollouts(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
            numbers = [int(prompt) for prompt in prompts]
            return sequences(
                portal.call(worlds.attempts, numbers, trainer.accelerator.unwrap_model(trainer.model))
            )

        def reward(
            prompts: Any, completions: Any, reward: list[float | None], **others: Any
        ) -> list[float | None]:
            means.append(sum(each or 0.0 for each in reward) / len(reward))
            print(f"step {len(means)}: {means[-1]:.3f}", file=sys.stderr, flush=True)
            return reward

        means: list[float] = []
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=arguments,
            processing_class=tokenizer,
            callbacks=[clock],
            rollout_func=rollouts,
            train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(20_000)]}),
        )
        trainer.train()
        portal.call(worlds._environment.aclose)
    print(json.dumps({"seconds": clock.seconds, "train_success": means}))


if __name__ == "__main__":
    main()
