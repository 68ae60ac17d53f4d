"""Log-probabilities of given tokens under a network, without sampling."""

from __future__ import annotations

from array import array

import torch

from agito.models import Decoder
from agito.sampling.wire import Scores

_BLOCK = 1 << 22  # logits held at once


def score(model: Decoder, ids: array[int], *, temperature: float = 1.0, num_top: int = 0) -> Scores:
    """Scores of one sequence. Raises `ValueError` for an empty one, a token outside the vocabulary, one
    longer than the context, and a temperature that is not above 0."""
    size = model.config.vocab_size
    if not ids or not 0 <= min(ids) <= max(ids) < size or not temperature > 0 or not 0 <= num_top <= size:
        raise ValueError(
            f"{len(ids)} tokens, temperature={temperature}, num_top={num_top}: need tokens of a vocabulary "
            f"of {size}, a temperature above 0, and at most {size} of the most probable ones"
        )
    ids_T = torch.tensor(ids, device=model.head_weight.device)
    hidden_TD = model.hidden(ids_T, [len(ids)])[:-1]
    found = Scores(logprobs=array("f"))
    for start in range(0, len(ids) - 1, rows := max(_BLOCK // size, 1)):
        block_RD = hidden_TD[start : start + rows]
        logprobs_RV = (model.logits(block_RD).float() / temperature).log_softmax(-1)
        next_R = ids_T[start + 1 : start + 1 + len(block_RD)]
        found.logprobs.extend(logprobs_RV.gather(1, next_R[:, None])[:, 0].tolist())
        if num_top:
            top_RK, top_ids_RK = logprobs_RV.topk(num_top)
            found.top_logprobs.frombytes(top_RK.cpu().numpy().tobytes())
            found.top_ids.frombytes(top_ids_RK.int().cpu().numpy().tobytes())
    return found
