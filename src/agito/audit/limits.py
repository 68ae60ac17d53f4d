"""What an environment must keep to be trained on. Each is the most that is allowed."""

from __future__ import annotations

EXPLOITS = 0.0  # attacks that work
FLOOR = 0.02  # above the declared chance level, for whoever does not do the task
HONEST = 0.02  # share of honest runs rejected that are accepted when they are acted again; of others none
FLAKE = 0.0  # verdicts that differ from another one of the same capture
LEAKAGE = 0.0  # marks of one episode that the next one can see
NONDETERMINISM = 0.01  # share of episodes that go differently when they are acted again
BROKEN = 0.05  # share of the audit's episodes without a verdict: what cannot be seen cannot be admitted
INTERFERENCE = 0.0  # share of episodes that go differently beside others
ELSEWHERE = 0.0  # tasks, episodes and verdicts that come out differently in another process
VOIDS = 0.0  # ways in which a policy can bring about an attempt without a verdict
# share of held-out and structural tasks that are training tasks, beyond what small numbers bring about
OVERLAP = 0.05
DUPLICATES = 0.5  # share of tasks that are one and the same but for a number or a name
TOLD = 0.0  # places where the answer can be read before it is earned
INFORMED = 0.0  # tasks that only a solution which knows the target solves
LEVELS = 0.0  # pairs of levels in the wrong order
CONSTANT = 0.5  # of full marks, for an answer that is always the same, where prompts declare no chance level
LEAKS = 0.02  # share of prompts that say their own answer
FORGED = 0.0  # ways to write what the verdict trusts
