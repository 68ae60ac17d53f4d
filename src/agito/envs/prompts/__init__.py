"""Own prompts with an own reward function; what reward functions may call."""

from __future__ import annotations

from agito.envs.prompts.env import PromptsEnvironment
from agito.envs.prompts.judge_model import Judge
from agito.envs.prompts.run_python import Ran, code_of, run_python

__all__ = ["Judge", "PromptsEnvironment", "Ran", "code_of", "run_python"]
