"""What a recipe says: the whole of one run's configuration, one default per knob."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, model_validator

from agito import config
from agito.config import Section
from agito.errors import NotFound
from agito.grading.monitor import MonitorConfig
from agito.trainer.config import TrainerConfig
from agito.types import Dialect

_IN_PROSE = {"model": {"vocab_size": 1280}, "compute": {"context": 2048}, "sft": {"batch": 4}}  # defaults of the natural dialect


class MixSection(Section):
    """One environment of a mixture. `weight`: its share of the tasks that are trained on, among the others' weights."""

    name: str
    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    weight: float = Field(default=1.0, gt=0)


class EnvSection(Section):
    """Which tasks. `levels` and `families` take turns evenly; empty: all that the environment has. With `mix`, they are those of its
    environments, and a family is called `environment.family`."""

    name: str = "shell"
    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    dialect: Dialect = Dialect.COMPACT
    mix: tuple[MixSection, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of every environment that is trained on."""
        return tuple(each.name for each in self.mix) or (self.name,)


class ModelSection(Section):
    """A Qwen3 network; the vocabulary is learned from the environment."""

    vocab_size: int = Field(default=512, ge=300)  # at most; in the natural dialect 1280
    hidden_size: int = Field(default=128, ge=8)
    intermediate_size: int = Field(default=192, ge=8)
    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=4, ge=1)
    num_kv_heads: int = Field(default=4, ge=1)
    head_dim: int = Field(default=32, ge=2)
    rope_theta: float = 10_000.0
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: must be even")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads}: must be a multiple of num_kv_heads={self.num_kv_heads}")
        return self


class ComputeSection(Section):
    """Torch processes on this machine. `ranks` is part of what is computed: a run resumes with as many as it began with."""

    ranks: int = Field(default=2, ge=1)
    device: str = "cpu"
    rows: int = Field(default=64, ge=2)  # concurrent attempts a rank
    context: int = Field(default=384, ge=16)  # tokens of an attempt; in the natural dialect 2048
    quantum: int = Field(default=4, ge=1)  # decode steps between two exchanges
    silence_s: float = Field(default=300.0, gt=0)  # a process that has not answered for so long is replaced


class SftSection(Section):
    """Cold start on demonstrations by an imperfect script."""

    demos: int = Field(default=8000, ge=1)
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict[str, float]
    )  # of cells, such as "find-1"; 1 where none is given
    skill: float = Field(default=0.5, ge=0, le=1)
    epochs: int = Field(default=2, ge=1)
    batch: int = Field(default=8, ge=1)  # demonstrations a step; in the natural dialect 4, which are longer
    survey: int = Field(default=200, ge=1)  # attempts that the vocabulary is learned from


class RlSection(Section):
    """Groups of attempts at one task, against each other."""

    steps: int = Field(default=30, ge=0)
    groups: int = Field(default=24, ge=1)  # mixed groups a step
    group_size: int = Field(default=8, ge=2)
    refill: float = Field(default=1.5, ge=1)  # groups issued a step at the most, over `groups`
    follow: bool = True  # draw more tasks from the cells where attempts at one task come out differently
    solve_rate: tuple[float, float] = (0.0, 1.0)  # draw few from cells whose running rate of success lies outside
    credit: Literal["leave_one_out", "group_mean"] = "leave_one_out"  # how rewards become advantages
    temperature: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=5, ge=1)


class PipelineSection(Section):
    """How acting and learning share the time.

    `on_policy`: turn about, repeatable bit for bit; attempts wait for one another's tools. `concurrent`: turn about, but no attempt waits
    for another's tools. `decoupled`: the first rank learns while the others sample.
    """

    mode: Literal["on_policy", "concurrent", "decoupled"] = "on_policy"
    max_staleness: int = Field(default=2, ge=0)  # versions; decoupled only


class EvalSection(Section):
    """The same held-out tasks before and after."""

    tasks: int = Field(default=504, ge=1)
    structural_tasks: int = Field(default=120, ge=0)
    baseline_tasks: int = Field(default=60, ge=0)
    temperature: float = Field(default=1.0, ge=0)


class Recipe(Section):
    name: str = "run"
    seed: int = Field(default=0, ge=0)
    env: EnvSection = EnvSection()
    model: ModelSection = ModelSection()
    compute: ComputeSection = ComputeSection()
    sft: SftSection = SftSection()
    rl: RlSection = RlSection()
    pipeline: PipelineSection = PipelineSection()
    monitor: MonitorConfig = MonitorConfig()
    eval: EvalSection = EvalSection()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="before")
    @classmethod
    def _leaves_room_for_prose(cls, given: Any) -> Any:
        """The natural dialect has several times the tokens, and all the words of its tools."""
        if not isinstance(given, dict):
            return given
        tree = cast("dict[str, Any]", given)
        if _table(tree.get("env")).get("dialect") != Dialect.NATURAL:
            return tree
        for name, wider in _IN_PROSE.items():
            if isinstance(tree.get(name, {}), dict | Section):
                tree = tree | {name: wider | _table(tree.get(name))}
        return tree

    @model_validator(mode="after")
    def _ranks_share_evenly(self) -> Recipe:
        if self.pipeline.mode == "decoupled":
            if self.compute.ranks < 2:
                raise ValueError("pipeline.mode='decoupled': needs compute.ranks of 2 or more, one that learns and others that sample")
        elif self.rl.groups % self.compute.ranks:
            raise ValueError(f"rl.groups={self.rl.groups}: must be a multiple of compute.ranks={self.compute.ranks}")
        return self


def _table(section: Any) -> dict[str, Any]:
    """What was given for a section, by name; nothing for what is no section."""
    if isinstance(section, Section):
        return section.model_dump(exclude_unset=True)
    return cast("dict[str, Any]", section) if isinstance(section, dict) else {}


def find(name: str) -> Path:
    """A recipe by path, or by name among the bundled ones. Raises `NotFound`."""
    if name.endswith(".toml") or "/" in name:
        if not Path(name).is_file():
            raise NotFound(f"recipe {name}: there is no such file")
        return Path(name)
    bundled = Path(__file__).parent / "recipes"
    if not (bundled / f"{name}.toml").is_file():
        known = ", ".join(sorted(path.stem for path in bundled.glob("*.toml")))
        raise NotFound(f"recipe {name!r}: there is {known}; or give a path that ends in .toml")
    return bundled / f"{name}.toml"


def read(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Raises `NotFound` and `BadRecipe`."""
    return config.read(Recipe, find(name), overrides)
