"""Find a value or repair a configuration with real bash in a real sandbox: five levels, faults included."""

from __future__ import annotations

from agito.envs.shell.env import RealisticShellEnvironment, ShellEnvironment

__all__ = ["RealisticShellEnvironment", "ShellEnvironment"]
