"""What every sandbox must keep: the rules about what a box does and about what it cannot do."""

from __future__ import annotations

from agito.testing.sandbox.actions import ActionRules
from agito.testing.sandbox.confinement import ConfinementRules
from agito.testing.sandbox.network import NetworkRules
from agito.testing.sandbox.survival import SurvivalRules


class SandboxContract(ActionRules, ConfinementRules, NetworkRules, SurvivalRules):
    """Subclass it, override `make`, and run pytest.

    The rules attack the box that they are given: run them against something that you believe to be a sandbox,
    never against a plain subprocess on a machine that matters.
    """


__all__ = ["SandboxContract"]
