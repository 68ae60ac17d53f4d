"""The contract of environments: rules about tasks, worlds and verdicts."""

from __future__ import annotations

from agito.testing.environment.tasks import TaskRules
from agito.testing.environment.verdicts import VerdictRules
from agito.testing.environment.worlds import WorldRules


class EnvironmentContract(TaskRules, WorldRules, VerdictRules):
    """Subclass it, override `make`, and run pytest.

    ```python
    class TestMine(EnvironmentContract):
        async def make(self) -> Environment:
            return MyEnvironment()
    ```
    """


__all__ = ["EnvironmentContract"]
