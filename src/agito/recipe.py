"""What a recipe says: the whole of one run's configuration, one default per knob."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from agito import config
from agito.config import FolderName, Section, meant
from agito.errors import NotFound
from agito.harness.recipe_section import AgentSection, HarnessSection
from agito.harness.team.openings import TEAM_ROLES
from agito.learning.credit import CREDITS
from agito.learning.effort import EffortSection
from agito.learning.trainer.config import TrainerConfig
from agito.models.recipe_sections import PRETRAINED, DistillSection, ModelSection, PolicySection
from agito.monitor import MonitorConfig
from agito.plugins import PromptSet, absolute, label, path_from_root, shown
from agito.protocols import MAIN
from agito.sampling.vllm.config import VllmSection
from agito.types import Dialect, Effort, ThinkingTurns

# defaults of the natural dialect
_IN_PROSE = {
    "model": {"vocab_size": 1280},
    "compute": {"context": 2048},
    "sft": {"batch": 4},
    "effort": {"speech_tokens": 16},
}
# Of prompts with a reward function: nobody demonstrates, and free text is rounded far in bfloat16.
_OF_PROMPTS: dict[str, Any] = {"sft": {"demos": 0}, "model": {"dtype": "float32"}}
_OF_ONE_MODEL = ("model", "compute", "sft", "rl", "trainer")  # tables that mean nothing to another model
_OF_ONE_ENVIRONMENT = ("env.families", "env.levels", "env.mix", "sft.weights")  # means nothing in another
_BUNDLED = Path(__file__).parent / "recipes"


class MixSection(Section):
    """One environment of a mixture."""

    name: str = Field(description="A bundled environment, or `path.py:Class`.")
    families: tuple[str, ...] = Field(default=(), description="Only these; empty: all that it has.")
    levels: tuple[int, ...] = Field(default=(), description="Only these; empty: all that it has.")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="Its share of the tasks that are trained on, among the others' weights.",
    )

    @field_validator("name")
    @classmethod
    def _holds_everywhere(cls, name: str) -> str:
        return absolute(name)


class EnvSection(Section):
    """Which tasks. Families and levels take turns evenly."""

    name: str = Field(
        default="shell", description="A bundled environment, or `path.py:Class`; a path is kept absolute."
    )
    families: tuple[str, ...] = Field(default=(), description="Only these; empty: all that it has.")
    levels: tuple[int, ...] = Field(default=(), description="Only these; empty: all that it has.")
    dialect: Dialect = Field(
        default=Dialect.COMPACT, description="How the policy reads and writes: see [dialects](dialects.md)."
    )
    vocabulary: Literal["terse", "realistic"] = Field(
        default="terse",
        description="What names and files are called: `terse`, or `realistic`, which shell, code, desk "
        "and thinking have for the natural dialect: see [vocabularies](dialects.md#vocabularies).",
    )
    mix: tuple[MixSection, ...] = Field(
        default=(),
        description="Several environments at once, `[[env.mix]]` for each; then `name`, `families` and "
        "`levels` above count for nothing.",
    )

    @field_validator("name")
    @classmethod
    def _holds_everywhere(cls, name: str) -> str:
        return absolute(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of every environment that is trained on, as they are loaded."""
        ending = "" if self.vocabulary == "terse" else f"-{self.vocabulary}"
        return tuple(f"{each.name}{ending}" for each in self.mix or (self,))

    @property
    def name_measured(self) -> str:
        """For records: the names as they are loaded, paths as they are kept."""
        return " + ".join(self.names)

    @property
    def title(self) -> str:
        """For people: the names, paths as they are seen from here."""
        return " + ".join(map(shown, self.names))


_POLICY_NAME = re.compile(r"[a-z][a-z0-9_-]*")  # it is a folder's, and begins the names of metrics


class ComputeSection(Section):
    """Torch processes on this machine, or on those of a cluster."""

    on: Literal["local", "ray"] = Field(
        default="local", description="Where: `local`, processes of this machine; `ray`, actors of a cluster."
    )
    ranks: int = Field(
        default=2, ge=1, description="Processes; a run is resumed with as many as it began with."
    )
    device: str = Field(default="cpu", description="`cpu`, `cuda`, or one GPU, such as `cuda:0`.")
    sampler: Literal["embedded", "vllm"] = Field(
        default="embedded", description="Of `main`: the engine in each process, or a vLLM server."
    )
    max_num_seqs: int = Field(default=64, ge=2, description="Attempts at a time in each process.")
    context: int = Field(default=384, ge=16, description="Tokens of an attempt; in the natural dialect 2048.")
    decode_steps: int = Field(
        default=4, ge=1, description="Decode steps between two exchanges with the worlds."
    )
    silence_s: float = Field(
        default=300.0, gt=0, description="Seconds after which a process that has not answered is replaced."
    )

    @field_validator("device")
    @classmethod
    def _is_known(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError("write cpu, cuda or cuda:0")
        return device


class SftSection(Section):
    """Cold start: imitation of an imperfect script."""

    demos: int = Field(
        default=8000,
        ge=0,
        description="Demonstrations; at least `batch`, or 0 for none, which needs `model.path`.",
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict[str, float],
        description='How many demonstrations of a cell, such as `"find-1" = 0.3`; 1 where none is given.',
    )
    skill: float = Field(default=0.5, ge=0, le=1, description="Of the demonstrator.")
    epochs: int = Field(default=2, ge=1, description="How often each demonstration is shown.")
    batch: int = Field(
        default=8, ge=1, description="Demonstrations a step; in the natural dialect 4, which are longer."
    )
    messages: str = Field(
        default="",
        description="Conversations to imitate instead: JSONL, `messages` in each line; or what `agito "
        "gateway --record` kept, or an earlier run: [how](gateway.md#training-on-what-was-served).",
    )
    least_reward: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Of `messages` with a `reward` or `success`: below it they are left out. Without: those "
        "that are no success are.",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Demonstrations. Imitation ends early once the loss of this many new ones is no longer a "
        "tenth lower than that of as many before, with a short decay of the learning rate. 0: all are shown.",
    )
    tokenizer_episodes: int = Field(
        default=200, ge=1, description="Episodes that the vocabulary is learned from."
    )

    @field_validator("messages")
    @classmethod
    def _holds_everywhere(cls, path: str) -> str:
        return path_from_root(path) if path else path


class RlSection(Section):
    """Reinforcement: groups of attempts at one task, against each other."""

    steps: int = Field(default=30, ge=0, description="Batches that are learned from.")
    groups: int = Field(
        default=24, ge=1, description="Groups a step in which outcomes differ; a multiple of `compute.ranks`."
    )
    group_size: int = Field(default=8, ge=2, description="Attempts at one task.")
    oversampling: float = Field(
        default=1.5, ge=1, description="Groups begun a step at the most, over `groups`."
    )
    adaptive_sampling: bool = Field(
        default=True,
        description="Draw more tasks from cells where attempts at one task come out differently.",
    )
    solve_rate: tuple[float, float] = Field(
        default=(0.0, 1.0), description="Draw few tasks from cells whose running success lies outside."
    )
    credit: str = Field(
        default="leave_one_out",
        description="How rewards become advantages: leave_one_out, group_mean, by_replay, per_role, "
        "per_role_spread, own_and_team, or `path.py:Class`.",
    )
    critical_price: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="In reward, what an attempt pays whose critical path is as long as its cell's mean; see "
        "[teams](howto/teams.md#a-price-on-the-critical-path).",
    )
    fork_ratio: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Of by_replay: the share of turns before and after which it forks.",
    )
    fork_times: int = Field(default=2, ge=1, description="Of by_replay: forks of one state.")
    temperature: float = Field(default=1.0, gt=0, description="Of sampling.")
    checkpoint_every: int = Field(default=5, ge=1, description="Steps.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Latest ones, beside the first and the last.")

    @field_validator("credit")
    @classmethod
    def _is_credit(cls, name: str) -> str:
        if name not in CREDITS and ":" not in name:
            raise ValueError(
                f"there is {', '.join(CREDITS)}; your own is path.py:Class{meant(name, tuple(CREDITS))}"
            )
        return absolute(name)


class PipelineSection(Section):
    """How acting and learning share the time: see [overlap](overlap.md)."""

    mode: Literal["on_policy", "concurrent", "decoupled"] = Field(
        default="on_policy",
        description="`on_policy`: turn about, repeatable bit for bit; attempts wait for one another's "
        "tools. `concurrent`: turn about, but "
        "no attempt waits for another's tools. `decoupled`: the first process learns while the others "
        "sample.",
    )
    max_staleness: int = Field(
        default=2, ge=0, description="Versions that a token may be old; decoupled only."
    )


class EvalSection(Section):
    """The same tasks before and after."""

    tasks: int = Field(default=504, ge=1, description="Held-out tasks.")
    structural_tasks: int = Field(default=120, ge=0, description="Tasks of another structure; 0: none.")
    baseline_tasks: int = Field(
        default=60, ge=0, description="Held-out tasks that the scripts attempt; 0: none."
    )
    temperature: float = Field(default=1.0, ge=0, description="Of sampling; 0 is greedy.")


class TrackSection(Section):
    """Where a run's numbers are shown too: see [tracking](tracking.md)."""

    to: tuple[str, ...] = Field(
        default=(), description="`tensorboard`, `wandb`, or your own `path.py:Class`; several at once."
    )
    online: bool = Field(default=False, description="Whether trackers may use the network.")
    project: str = Field(default="agito", min_length=1, description="Of Weights & Biases.")

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("to")
    @classmethod
    def _holds_everywhere(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(absolute(name) for name in names)


class Recipe(Section):
    """One run."""

    name: FolderName = Field(default="run", description="The run goes to `runs/NAME`.")
    seed: int = Field(default=0, ge=0, description="Of everything random.")
    env: EnvSection = EnvSection()
    model: ModelSection = ModelSection()
    harness: HarnessSection = HarnessSection()
    agents: dict[str, AgentSection] = Field(
        default_factory=dict[str, AgentSection], description="By role; `main` plays those left out."
    )
    policies: dict[str, PolicySection] = Field(
        default_factory=dict[str, PolicySection], description="By name, beside `main`."
    )
    compute: ComputeSection = ComputeSection()
    sft: SftSection = SftSection()
    rl: RlSection = RlSection()
    effort: EffortSection = EffortSection()
    distill: DistillSection = DistillSection()
    pipeline: PipelineSection = PipelineSection()
    vllm: VllmSection = VllmSection()
    monitor: MonitorConfig = MonitorConfig()
    eval: EvalSection = EvalSection()
    track: TrackSection = TrackSection()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="before")
    @classmethod
    def _leaves_room_for_prose(cls, given: Any) -> Any:
        """The natural dialect has several times the tokens, and all the words of its tools. A pre-trained
        model speaks no other.
        """
        if not isinstance(given, dict):
            return given
        tree = cast("dict[str, Any]", given)
        if config.table(tree.get("model")).get("path"):
            if any(PromptSet.parse(name) for name in _named(tree)):
                tree = config.under(_OF_PROMPTS, tree)
            tree = tree | {"env": {"dialect": Dialect.NATURAL} | config.table(tree.get("env"))}
            tree = config.under(PRETRAINED, tree)
        if config.table(tree.get("env")).get("dialect") != Dialect.NATURAL:
            return tree
        for name, wider in _IN_PROSE.items():
            if isinstance(tree.get(name, {}), dict | Section):
                tree = tree | {name: wider | config.table(tree.get(name))}
        return tree

    @model_validator(mode="after")
    def _asks_of_a_harness_what_it_can(self) -> Recipe:
        forked = {role for role, agent in self.agents.items() if agent.world == "fork"}
        spawned = (self.harness.roles or TEAM_ROLES)[1:] if self.harness.name == "team" else ()
        if wrong := sorted(forked - {*spawned}):
            raise ValueError(f"agents.{wrong[0]}.world='fork': only agents that a team spawns have a parent")
        can_fork = self.harness.name in ("solo", "team") and not self.harness.command
        if self.effort.turns is not ThinkingTurns.EVERY and (
            self.harness.name != "solo" or self.harness.command
        ):
            raise ValueError(f"effort.turns={self.effort.turns}: for the solo harness alone")
        if self.rl.credit == "by_replay" and Effort.AUTO in self.effort.settings:
            raise ValueError("rl.credit='by_replay': not at effort auto; its attempts are compared by mode")
        if self.rl.credit == "by_replay" and (self.pipeline.mode != "on_policy" or not can_fork):
            raise ValueError(
                "rl.credit='by_replay': needs pipeline.mode='on_policy', and a harness whose attempts can "
                "be repeated up to any turn: solo or team"
            )
        return self

    @model_validator(mode="after")
    def _speaks_to_language_models_in_prose(self) -> Recipe:
        if self.model.path and self.env.dialect is not Dialect.NATURAL:
            raise ValueError(
                f"env.dialect={self.env.dialect}: a pre-trained model (model.path) reads and writes the "
                "natural dialect"
            )
        realistic = [name for name in self.env.names if name.endswith("-realistic")]
        if realistic and self.env.dialect is not Dialect.NATURAL:
            raise ValueError(
                f"{realistic[0]}: realistic names and files are for language models; set "
                f"env.dialect='natural', not '{self.env.dialect}'"
            )
        return self

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Recipe:
        if self.pipeline.mode == "decoupled":
            others_learn = any(each.learns for each in self.policies.values())
            if self.compute.ranks < 2 and (self.compute.sampler == "embedded" or others_learn):
                raise ValueError(
                    "pipeline.mode='decoupled': needs compute.ranks of 2 or more, one that learns and "
                    "others that sample"
                )
        elif self.rl.groups % self.compute.ranks:
            raise ValueError(
                f"rl.groups={self.rl.groups}: must be a multiple of compute.ranks={self.compute.ranks}"
            )
        known = (MAIN, *self.policies)
        if unknown := [agent.policy for agent in self.agents.values() if agent.policy not in known]:
            raise ValueError(f"agents: there is no policy {unknown[0]!r}; there are {', '.join(known)}")
        if MAIN in self.policies:
            raise ValueError(f"policies: {MAIN} is what [model] describes; give this one another name")
        if self.compute.sampler == "vllm" and not self.model.path:
            raise ValueError("compute.sampler='vllm': it serves pre-trained models; name one by model.path")
        teacher = self.distill.teacher
        if teacher and (teacher not in self.policies or self.policies[teacher].learns):
            raise ValueError(f"distill.teacher: {teacher!r} is not a frozen policy of [policies]")
        if bad := [name for name in self.policies if not _POLICY_NAME.fullmatch(name)]:
            raise ValueError(f"policies.{bad[0]}: a name has lower case letters, digits, - and _")
        if not self.sft.demos and not self.model.path:
            raise ValueError(
                "sft.demos=0: a network from random weights has to begin by imitation; name a pre-trained "
                "model by model.path"
            )
        if self.sft.demos and self.sft.demos < self.sft.batch:
            raise ValueError(
                f"sft.demos={self.sft.demos}: must be at least sft.batch={self.sft.batch}, for one step of "
                "imitation"
            )
        return self


def bundled() -> tuple[str, ...]:
    """Names of recipes."""
    return tuple(sorted(path.stem for path in _BUNDLED.glob("*.toml")))


def find(name: str) -> Path:
    """A recipe by path, or by name among the bundled ones. Raises `NotFound`."""
    if name.endswith(".toml") or "/" in name:
        if not Path(name).is_file():
            raise NotFound(f"recipe {name}: there is no such file")
        return Path(name)
    if name not in bundled():
        raise NotFound(
            f"recipe {name!r}: there is {', '.join(bundled())}; or give a path that ends in "
            f".toml{config.meant(name, bundled())}"
        )
    return _BUNDLED / f"{name}.toml"


def read(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Raises `NotFound` and `BadRecipe`.

    Where the overrides name another environment, what the file says of its own (families, levels, weights of
    cells) is left out, and the run's name says what it trains on. Where they name a pre-trained model and the
    file does not, its sizes and rates are left out too.
    """
    path = find(name)
    tree, given = config.load(path), config.tree_of(overrides)
    was, now = _named(tree), _named(given)
    if config.table(given.get("model")).get("path") and not config.table(tree.get("model")).get("path"):
        for name in _OF_ONE_MODEL:
            tree.pop(name, None)
        tree["name"] = f"{tree.get('name', path.stem)}-{Path(config.table(given['model'])['path']).name}"
    if now and now != (was or (EnvSection().name,)):
        for dotted in _OF_ONE_ENVIRONMENT:
            section, _, key = dotted.partition(".")
            if key in config.table(tree.get(section)):
                del tree[section][key]
        tree["name"] = f"{tree.get('name', path.stem)}-{label(*now)}"
    return config.build(Recipe, tree, overrides, source=f"recipe {name}")


def _named(tree: dict[str, Any]) -> tuple[str, ...]:
    """The environments that a recipe's table names."""
    section = config.table(tree.get("env"))
    mix: Any = section.get("mix")
    names = (
        [config.table(each).get("name") for each in cast("list[Any]", mix)]
        if isinstance(mix, list | tuple)
        else []
    )
    return tuple(absolute(str(each)) for each in names or [section.get("name")] if each is not None)
