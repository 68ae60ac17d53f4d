"""A team of one pre-trained model, in which each role has an adapter of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.test_policies import PRETRAINED, pretrained
from tests.test_resume import ROOT, agito, finish, kill

from agito.models import LoraConfig, adapt, load
from agito.models.lora import load_adapter_into

STEPS = ("rl.steps=2", "rl.groups=2", "rl.group_size=2", "rl.checkpoint_every=1")
TEAM = (
    *(each for each in PRETRAINED if not each.startswith(("env.", "rl.", "compute."))),
    *STEPS,
    f"env.name={ROOT / 'tests/roomy_fanout.py'}:RoomyFanOut",
    "env.families=['fanout']",
    "env.levels=[1]",
    "compute.ranks=1",
    "compute.context=4096",
    "compute.max_num_seqs=8",
    "sft.skill=1.0",
    "policies.worker.learns=true",
    "policies.worker.imitates=true",
    "policies.worker.lora.rank=2",
    "agents.worker.policy=worker",
)


def train(home: Path, model: Path, *overrides: str) -> tuple[str, ...]:
    """The words of a run of `team-fanout` on this model, in this directory."""
    home.mkdir(exist_ok=True)
    every = (*TEAM, f"model.path={model}", f"policies.worker.path={model}", *overrides)
    return (
        "train",
        "team-fanout",
        "--name",
        "run",
        "--admit-anyway",
        *(word for override in every for word in ("--set", override)),
    )


def adapter(run: Path, checkpoint: str = "final") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / checkpoint / "adapter_model.safetensors")


def is_untouched(found: dict[str, torch.Tensor]) -> bool:
    """Whether it changes nothing yet: one half of an adapter begins at zero."""
    return all(not tensor.any() for name, tensor in found.items() if "lora_B" in name)


def test_each_role_imitates_and_is_exported_by_its_own_adapter_also_after_a_kill(tmp_path: Path) -> None:
    model = pretrained(tmp_path / "model")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    one = finish(agito(whole, *train(whole, model)), whole)
    run = agito(killed, *train(killed, model))
    assert kill(run, when=(killed / "runs/run/checkpoints/step-1").is_dir), "it was over before it was killed"
    two = finish(agito(killed, "train", "--resume", "runs/run"), killed)
    for policy, rank in (("", 4), ("policies/worker", 2)):
        begun, ended, resumed = adapter(one / policy, "step-0"), adapter(one / policy), adapter(two / policy)
        assert not is_untouched(begun), "the cold start changed it"
        assert ended.keys() == resumed.keys()
        assert all(torch.equal(ended[name], resumed[name]) for name in ended)
        fresh = adapt(load(model), LoraConfig(rank=rank), seed=0)
        load_adapter_into(fresh, one / policy / "checkpoints/final")


def test_a_role_without_imitation_begins_as_the_model_was_and_a_frozen_one_stays_so(tmp_path: Path) -> None:
    model = pretrained(tmp_path / "model")
    begins, frozen = tmp_path / "begins", tmp_path / "frozen"
    untaught = ("policies.worker.imitates=false", "rl.steps=0")
    run = finish(agito(begins, *train(begins, model, *untaught)), begins)
    assert is_untouched(adapter(run / "policies/worker", "step-0"))
    assert not is_untouched(adapter(run, "step-0"))
    taught = tmp_path / "taught"
    done = finish(agito(taught, *train(taught, model, "rl.steps=0")), taught) / "policies/worker"
    before = adapter(done)
    fixed = (f"policies.worker.path={done}", "policies.worker.learns=false", "policies.worker.imitates=false")
    other = finish(agito(frozen, *train(frozen, model, *fixed)), frozen)
    assert not (other / "policies").exists() and adapter(done).keys() == before.keys()
