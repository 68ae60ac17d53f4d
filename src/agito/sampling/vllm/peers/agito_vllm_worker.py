"""Runs inside vLLM's own processes, which import it by name: loads new weights from a file, between two
engine steps.

Not part of the package `agito`, which vLLM's environment does not have.
"""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Weights:
    """The class for `--worker-extension-cls`; its methods are called through `/collective_rpc`."""

    model_runner: Any
    vllm_config: Any

    def agito_load_weights(self, path: str) -> int:
        """Loads all weights of the model from a safetensors file with Hugging Face names. Returns the number
        of tensors."""
        from safetensors import safe_open
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        model = self.model_runner.model
        with set_current_vllm_config(self.vllm_config), safe_open(path, "pt") as file:
            names = list(file.keys())

            def tensors() -> Iterator[tuple[str, Any]]:
                for name in names:
                    yield name, file.get_tensor(name)

            initialize_layerwise_reload(model)
            model.load_weights(tensors())
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            _repack_tied_head(model, self.vllm_config.model_config)
        reset = getattr(self.model_runner, "reset_lora_state", None)
        if reset is not None:
            reset()
        return len(names)


def _repack_tied_head(model: Any, config: Any) -> None:
    """On the CPU, the head of a model with tied embeddings is a packed copy of them, which a reload does not
    update."""
    head: Any = getattr(model, "lm_head", None)
    if not (getattr(config.hf_config, "tie_word_embeddings", False) and hasattr(head, "cpu_linear")):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head.weight = model.model.embed_tokens.weight
    dispatch_cpu_unquantized_gemm(head, False)
