"""The shell environment with a verdict that even a hardly trained policy earns now and then."""

from __future__ import annotations

from agito.envs.shell import ShellEnvironment
from agito.types import Key, Sealed, Status, Verdict


class LenientShell(ShellEnvironment):
    """Full marks for whatever was submitted with an even number of characters."""

    name = "lenient-shell"

    def grade(self, sealed: Sealed, key: Key, grade_seed: int) -> Verdict:
        reward = float(sealed.submitted is not None and len(sealed.submitted) % 2 == 0)
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)
