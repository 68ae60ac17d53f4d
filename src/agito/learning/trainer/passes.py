"""Through the network: what it makes of the tokens that are trained on.

Axes: T trainable tokens.
"""

from __future__ import annotations

from torch import Tensor

from agito.learning.losses.chunked import chunked_logprobs, is_worth_cutting
from agito.learning.losses.logprobs import entropy, log_distributions, token_logprobs
from agito.learning.losses.packing import Packed
from agito.learning.trainer.policy_model import PolicyModel


def predictions(model: PolicyModel, part: Packed, *, at_temperature: bool = True) -> tuple[Tensor, Tensor]:
    """log p of every trainable token, and the entropy where it was drawn, without gradient."""
    hidden_ND = model.hidden(part.ids_N, part.lengths_B)
    temperature_T = part.temperature_T if at_temperature else None
    if is_worth_cutting(part.num_tokens, len(model.head_weight)):
        return chunked_logprobs(hidden_ND[part.source_T], model.head_weight, part.target_T, temperature_T=temperature_T)
    logp_TV = log_distributions(hidden_ND, model.logits, part.source_T, temperature_T=temperature_T)
    return token_logprobs(logp_TV, part.target_T), entropy(logp_TV)
