"""A team: agents in contexts of their own, which know one another by brief and report alone."""

from __future__ import annotations

from agito.harness.team.harness import TeamHarness
from agito.harness.team.leaks import LEAKED, Heard, context_leaks, of_world
from agito.harness.team.openings import TEAM_ROLES, TeamRules, first_task
from agito.harness.team.scripted import ScriptedTeam

__all__ = [
    "LEAKED",
    "TEAM_ROLES",
    "Heard",
    "ScriptedTeam",
    "TeamHarness",
    "TeamRules",
    "context_leaks",
    "first_task",
    "of_world",
]
