"""Optimizer steps on samples, supervised and reinforcement learning; checkpoints.

Names load lazily, so a recipe can be read (`agito.learning.trainer.config`) without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agito.learning.trainer.config import PhaseConfig, SftConfig, TrainerConfig
    from agito.learning.trainer.policy_model import PolicyModel
    from agito.learning.trainer.reducer import OneRank, Reducer, SharedReducer
    from agito.learning.trainer.trainer import LocalTrainer
    from agito.learning.trainer.trainer_state import load_state, save_state

_HOME = {
    "SharedReducer": "reducer",
    "LocalTrainer": "trainer",
    "OneRank": "reducer",
    "PhaseConfig": "config",
    "PolicyModel": "policy_model",
    "Reducer": "reducer",
    "SftConfig": "config",
    "TrainerConfig": "config",
    "load_state": "trainer_state",
    "save_state": "trainer_state",
}

__all__ = [
    "SharedReducer",
    "LocalTrainer",
    "OneRank",
    "PhaseConfig",
    "PolicyModel",
    "Reducer",
    "SftConfig",
    "TrainerConfig",
    "load_state",
    "save_state",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
