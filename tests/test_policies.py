"""Policies are values: a run may start from a pre-trained model, and hold frozen policies beside the learning
one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.models.test_walk import CHATML, write
from tests.test_resume import COIN, ROOT, agito, finish, kill, train

from agito.errors import BadRecipe, CorruptCheckpoint, NotFound
from agito.models import Decoder, DecoderConfig, LoraConfig, adapt, save, save_adapter
from agito.models.lora import load_adapter_into
from agito.recipe import Recipe, read
from agito.record import read_trajectories
from agito.render import read_chat
from agito.render.tokenizer import ModelTokenizer
from agito.render.vocabulary import Vocabulary
from agito.replays.updates import replay_updates

SMALL = tuple(each for each in COIN if not each.startswith("model."))
PRETRAINED = (
    *(each for each in SMALL if not each.startswith(("sft.demos", "compute.context"))),
    "sft.demos=24",
    "sft.batch=4",
    "sft.epochs=1",
    "compute.context=2048",
    "rl.steps=2",
    "eval.tasks=2",
    "eval.structural_tasks=0",
    "model.lora.rank=4",
)


def pretrained(folder: Path, seed: int = 1, **shape: int) -> Path:
    """A small network of random weights in a Hugging Face folder, with a tokenizer and a chat template that
    are not ours.
    """
    write(folder, "byte level", CHATML)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
    config = replace(
        DecoderConfig(vocab_size=-(-ModelTokenizer.read(folder).largest_id // 64) * 64 + 64),
        num_layers=2,
        max_position=4096,
        family="llama",
        qk_norm=False,
        **{**small, **shape},
    )
    save(Decoder(config, seed=seed), folder)
    return folder


@pytest.fixture(scope="module")
def adviser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a policy with a vocabulary of its own."""
    home = tmp_path_factory.mktemp("adviser")
    run = agito(home, *command("adviser", (*COIN, "rl.steps=0", "model.vocab_size=300")))
    return finish(run, home).parent / "adviser"


def advised(adviser: Path, *overrides: str) -> tuple[str, ...]:
    """Of a run in which it advises."""
    return (
        *COIN,
        "rl.steps=2",
        f"harness.name={ROOT / 'tests/advised.py'}:Advised",
        f"policies.adviser.path={adviser}",
        "agents.adviser.policy=adviser",
        *overrides,
    )


def test_two_policies_with_vocabularies_of_their_own_act_in_one_attempt_and_only_one_of_them_learns(
    tmp_path: Path, adviser: Path
) -> None:
    before = weights(adviser)
    run = finish(train(tmp_path, advised(adviser)), tmp_path)
    sizes = [len(Vocabulary.read(path / "checkpoints/final")) for path in (run, adviser)]
    assert sizes[0] != sizes[1]
    found = [
        recorded
        for path in sorted((run / "trajectories").glob("rl-*.parquet"))
        for recorded in read_trajectories(path)
    ]
    assert found
    learned = False
    for recorded in found:
        actor, advice = recorded.attempt.trajectory.segments
        assert (actor.policy, actor.role, advice.policy, advice.role) == (
            "main",
            "solo",
            "adviser",
            "adviser",
        )
        assert any(advice.tokens.is_sampled) and {span.version for span in advice.tokens.versions} == {0}
        trained = {
            stats.segment
            for stats in recorded.stats
            if any(abs(value) > 0 for value in stats.advantages or ())
        }
        assert trained <= {actor.id}, "a frozen policy's tokens are not trained on"
        learned |= bool(trained)
        words = Vocabulary.read(adviser / "checkpoints/final").pieces(list(advice.tokens.ids))
        assert list(recorded.pieces[-len(words) :]) == words
    assert learned
    assert weights(adviser) == before


def test_two_policies_learn_in_one_run_and_one_that_is_killed_ends_with_the_weights_of_both(
    tmp_path: Path, adviser: Path
) -> None:
    homes = [tmp_path / "whole", tmp_path / "killed"]
    for home in homes:
        home.mkdir()
    overrides = advised(adviser, "policies.adviser.learns=true", "rl.checkpoint_every=1")
    one = finish(train(homes[0], overrides), homes[0])
    assert kill(train(homes[1], overrides), when=(homes[1] / "runs/run/checkpoints/step-1").is_dir), (
        "it was over"
    )
    two = finish(agito(homes[1], "train", "--resume", "runs/run"), homes[1])
    for policy in ("", "policies/adviser"):
        begun, ended = (weights(one / policy, name) for name in ("step-0", "final"))
        assert begun != ended == weights(two / policy)
    assert weights(one / "policies/adviser", "step-0") == weights(adviser)
    steps = [
        sorted(path.name for path in (one / at / "checkpoints").iterdir()) for at in ("", "policies/adviser")
    ]
    assert steps[0] == steps[1]
    for step, path in enumerate(sorted((one / "trajectories").glob("rl-*.parquet"))):
        versions: set[int] = set()
        for recorded in read_trajectories(path):
            trained = {stats.segment for stats in recorded.stats if any(stats.advantages or ())}
            assert trained in (set(), {0, 1}), "both have a share in what the attempt earned"
            for segment in recorded.attempt.trajectory.segments:
                versions |= {span.version for span in segment.tokens.versions}
        assert len(versions) == 1, f"step {step}: one commit counter for all policies"
    metrics = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    assert any("adviser/policy/loss" in line and "policy/loss" in line for line in metrics)
    again = anyio.run(replay_updates, one)
    assert again.differs == "" and "final" in again.checked
    finish(agito(homes[0], "eval", "runs/run", "--n", "2", "--no-baselines"), homes[0])


def test_two_policies_learn_while_others_sample_them(tmp_path: Path, adviser: Path) -> None:
    decoupled = (
        "policies.adviser.learns=true",
        "pipeline.mode=decoupled",
        "pipeline.max_staleness=1",
        "compute.ranks=2",
    )
    run = finish(train(tmp_path, advised(adviser, *decoupled)), tmp_path)
    for policy in ("", "policies/adviser"):
        assert weights(run / policy, "step-0") != weights(run / policy)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("age/max_versions", 0) for line in lines) <= 1


def test_a_run_from_a_pretrained_model_that_is_killed_and_resumed_ends_with_the_same_adapter(
    tmp_path: Path,
) -> None:
    model = pretrained(tmp_path / "model")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for home in (whole, killed):
        home.mkdir()
    ends = json.loads((model / "config.json").read_text()) | {"eos_token_id": 7}
    (model / "config.json").write_text(json.dumps(ends))
    (model / "manifest.json").unlink()  # as folders of other makers are
    overrides = (*PRETRAINED, f"model.path={model}")
    one = finish(train(whole, overrides), whole)
    assert kill(train(killed, overrides), when=(killed / "runs/run/checkpoints/step-1").is_dir), (
        "it was over before it was killed"
    )
    two = finish(agito(killed, "train", "--resume", "runs/run"), killed)
    adapters = [(run / "checkpoints/final/adapter_model.safetensors").read_bytes() for run in (one, two)]
    assert adapters[0] == adapters[1]
    base, saved = read_chat(model), read_chat(one / "checkpoints/final")
    assert 7 in base.stop_ids and (saved.stop_ids, saved.vocab_size) == (base.stop_ids, base.vocab_size)
    config = json.loads((one / "checkpoints/final/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["base_model_name_or_path"] == str(model)
    lines = map(json.loads, (one / "metrics.jsonl").read_text().splitlines())
    losses = [line["sft/loss_nats"] for line in lines if "sft/loss_nats" in line]
    assert losses[-1] < losses[0]
    again = anyio.run(replay_updates, one)
    assert (again.steps, again.differs) == (2, "") and "final" in again.checked
    finish(agito(whole, "eval", "runs/run", "--n", "2", "--no-baselines"), whole)
    finish(
        agito(
            whole, "eval", str(model), "--env", "agito.testing:FakeEnvironment", "--n", "2", "--no-baselines"
        ),
        whole,
    )


def test_a_student_comes_nearer_to_its_teacher_on_its_own_samples(tmp_path: Path) -> None:
    """The teacher is the same network under other weights; rewards do not count."""
    student, teacher = pretrained(tmp_path / "student"), pretrained(tmp_path / "teacher", seed=2)
    (teacher / "generation_config.json").write_text('{"repetition_penalty": 1.1}')  # its own sampling's
    (teacher / "manifest.json").unlink()
    overrides = (
        *(each for each in PRETRAINED if not each.startswith(("rl.steps", "sft.demos", "model.lora"))),
        f"model.path={student}",
        "model.adapter=none",
        f"policies.teacher.path={teacher}",
        "distill.teacher=teacher",
        "distill.keeps_reward=false",
        "sft.demos=0",
        "rl.steps=6",
        "trainer.rl.lr=0.03",
    )
    run = finish(train(tmp_path, overrides), tmp_path)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [line["distill/reverse_kl_nats"] for line in lines if "distill/reverse_kl_nats" in line]
    assert len(found) == 6 and found[0] > 0.05 and found[-1] < 0.7 * found[0], found
    again = anyio.run(replay_updates, run)
    assert again.differs == "" and "final" in again.checked


def test_an_adapter_that_was_altered_is_refused(tmp_path: Path) -> None:
    model = Decoder(DecoderConfig(vocab_size=300, hidden_size=32, num_layers=1), seed=0)
    save_adapter(adapt(model, LoraConfig(rank=2), seed=0), LoraConfig(rank=2), tmp_path, base="x")
    load_adapter_into(model, tmp_path)
    data = bytearray((tmp_path / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="its hash is not the one"):
        load_adapter_into(model, tmp_path)


def test_a_recipe_whose_policies_do_not_fit_together_is_refused() -> None:
    for overrides, said in {
        ("agents.solo.policy=nobody",): "there is no policy 'nobody'",
        ("model.path=org/model", "env.dialect=compact"): "reads and writes the natural dialect",
        ("sft.demos=0",): "has to begin by imitation",
        ("policies.main.path=x",): "give this one another name",
        ("distill.teacher=nobody",): "is not a frozen policy",
        ("policies.a/b.path=x",): "lower case letters",
        ("policies.a.path=x", "policies.a.imitates=true"): "does not learn is frozen",
        ("effort.turns=first", "harness.name=team"): "for the solo harness alone",
    }.items():
        with pytest.raises(BadRecipe, match=said):
            read("quickstart", overrides)
    assert read("quickstart", ("model.path=org/model",)).env.dialect == "natural"


def test_a_model_that_is_not_there_is_named_with_what_would_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agito.models.hub import folder_of

    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="agito models get smollm2-135m"):
        folder_of("smollm2-135m")
    with pytest.raises(NotFound, match="there is no such folder"):
        folder_of("./nowhere")
    (tmp_path / "models/smollm2-135m").mkdir(parents=True)
    assert folder_of("smollm2-135m") == tmp_path / "models/smollm2-135m"
    assert Recipe.model_validate({"model": {"path": "models/smollm2-135m"}}).model.path == str(
        tmp_path / "models/smollm2-135m"
    )


def command(name: str, overrides: tuple[str, ...]) -> list[str]:
    return [
        "train",
        "quickstart",
        "--name",
        name,
        "--admit-anyway",
        *(word for each in overrides for word in ("--set", each)),
    ]


def weights(run: Path, checkpoint: str = "final") -> bytes:
    return (run / "checkpoints" / checkpoint / "model.safetensors").read_bytes()
