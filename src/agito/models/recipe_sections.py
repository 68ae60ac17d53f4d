"""What a recipe says of models: the one that learns, and those beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from agito.config import Section
from agito.models.config import PROJECTIONS


def _from_anywhere(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder.absolute()) if path and folder.is_dir() else path


ModelPath: TypeAlias = Annotated[str, AfterValidator(_from_anywhere)]
ToolFormatName: TypeAlias = Literal[
    "auto",
    "harmony",
    "qwen3_coder",
    "hermes",
    "mistral_v11",
    "mistral",
    "llama4_pythonic",
    "olmo3",
    "lfm2",
    "pythonic",
    "llama3_json",
]

# Defaults of a recipe with a pre-trained model: it knows how to speak already, is large, and moves little.
# Rates are those of adapters.
PRETRAINED: dict[str, dict[str, Any]] = {
    "model": {"dtype": "bfloat16"},
    "compute": {"max_num_seqs": 16},
    "sft": {"demos": 256, "epochs": 1, "batch": 8, "skill": 0.9},
    "rl": {"steps": 20, "groups": 8, "checkpoint_every": 5},
    "trainer": {
        "micro_tokens": 512,
        "keep_activations": 384,
        "minibatches": 1,
        "sft": {"lr": 1e-3, "adam_lr": 1e-3, "decay": 1.0, "warmup": 0.05},
        "rl": {"lr": 2e-4, "adam_lr": 2e-4, "warmup": 0.0, "decay": 0.7},
    },
    "eval": {"tasks": 200, "structural_tasks": 0, "baseline_tasks": 40},
}


class LoraSection(Section):
    """Low-rank adapters (arXiv:2106.09685), in peft's layout: only they learn, the model itself stays as it
    is.
    """

    rank: int = Field(default=16, ge=1, description="Of A and B.")
    alpha: float = Field(default=32.0, gt=0, description="The adapter is scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(default=PROJECTIONS, description="Projections by name, in every layer.")


class ModelSection(Section):
    """The policy that learns: a pre-trained model where `path` names one, else a network from random weights.

    The shape, and the vocabulary that is learned from the environment, are of the latter.
    """

    path: ModelPath = Field(
        default="",
        description="A Hugging Face folder, or a hub id; its tokenizer and chat template are used, and the "
        "natural dialect.",
    )
    tool_format: ToolFormatName = Field(
        default="auto",
        description="How calls are written: `auto`, as the chat template writes them, else Hermes around it.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of a pre-trained model's weights."
    )
    adapter: Literal["lora", "none"] = Field(
        default="lora",
        description="What learns of a pre-trained model: an adapter, or, with `none`, all of its weights.",
    )
    lora: LoraSection = LoraSection()
    vocab_size: int = Field(
        default=512, ge=300, description="Largest number of tokens; in the natural dialect 1280."
    )
    hidden_size: int = Field(default=128, ge=8, description="Width of the residual stream.")
    intermediate_size: int = Field(default=192, ge=8, description="Width of the gated MLP.")
    num_layers: int = Field(default=2, ge=1, description="Blocks.")
    num_heads: int = Field(default=4, ge=1, description="Query heads.")
    num_kv_heads: int = Field(
        default=4, ge=1, description="Key and value heads, of which `num_heads` is a multiple."
    )
    head_dim: int = Field(default=32, ge=2, description="Width of a head; even.")
    rope_theta: float = Field(default=10_000.0, gt=0, description="Base of the rotary positions.")
    rms_norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square in a norm.")
    tie_embeddings: bool = Field(default=True, description="The head is the embedding.")

    def shape(self) -> dict[str, Any]:
        """Of a network from random weights, but for its vocabulary."""
        return self.model_dump(exclude={"vocab_size", "path", "tool_format", "dtype", "adapter", "lora"})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim}: must be even")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: must be a multiple of num_kv_heads={self.num_kv_heads}"
            )
        return self


class PolicySection(Section):
    """Another policy of the run, beside `main`: frozen, such as an opponent or a teacher, or one that learns
    too.
    """

    path: ModelPath = Field(description="A run, a checkpoint, a Hugging Face folder, or a hub id.")
    learns: bool = Field(default=False, description="By RL, from its own tokens, in step with `main`.")
    imitates: bool = Field(
        default=False,
        description="By the cold start too, from what its own agents say in demonstrations; needs `learns`.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="Of its weights.")
    adapter: Literal["lora", "none"] | None = Field(
        default=None,
        description="What learns: an adapter, or all weights; by default an adapter for a pre-trained model, "
        "all weights for a network of ours.",
    )
    lora: LoraSection = LoraSection()

    @model_validator(mode="after")
    def _learns_if_it_imitates(self) -> Self:
        if self.imitates and not self.learns:
            raise ValueError("imitates=true: a policy that does not learn is frozen; set learns")
        return self


class DistillSection(Section):
    """On-policy distillation (arXiv:2306.13649): a token's advantage grows by how much more probable a
    teacher finds it than the policy did.
    """

    teacher: str = Field(
        default="",
        description="A frozen policy of `[policies]`, with the tokenizer of `main`. Empty: nobody.",
    )
    weight: float = Field(default=1.0, gt=0, description="Of the teacher's part, in advantage a nat.")
    keeps_reward: bool = Field(default=True, description="Whether rewards count too.")
