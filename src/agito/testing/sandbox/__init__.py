"""The contract of sandboxes: what a box can do, and what it must not."""

from __future__ import annotations

from agito.testing.sandbox.actions import ActionRules
from agito.testing.sandbox.confinement import ConfinementRules
from agito.testing.sandbox.network import NetworkRules
from agito.testing.sandbox.survival import SurvivalRules


class SandboxContract(ActionRules, ConfinementRules, NetworkRules, SurvivalRules):
    """Subclass it, override `make`, and run pytest.

    The rules attack the box. Run them only against something that you believe to be a sandbox, never against
    a plain subprocess on a machine that matters.
    """


__all__ = ["SandboxContract"]
