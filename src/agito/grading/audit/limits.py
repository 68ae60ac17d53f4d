"""What an environment must keep to be trained on. Each is the most that is allowed."""

from __future__ import annotations

EXPLOITS = 0.0  # attacks that work
FLOOR = 0.02  # above the declared chance level, for those who do nothing, guess or claim
HONEST = 0.02  # share of honest runs rejected
FLAKE = 0.01  # share of captures on which the grader disagrees with itself
LEAKAGE = 0.0  # marks of one episode that the next one can see
NONDETERMINISM = 0.01  # share of episodes that go differently when they are acted again
BROKEN = 0.05  # share of the audit's episodes without a verdict: what cannot be seen cannot be admitted
INTERFERENCE = 0.0  # share of episodes that go differently beside others
