"""Limits that an environment must keep to be trained on; each is the largest value allowed."""

from __future__ import annotations

EXPLOITS = 0.0  # attacks that work
FLOOR = 0.02  # reward of agents that do not do the task, above the declared chance level
HONEST = 0.02  # share of honest runs rejected that pass when replayed; none may be rejected twice
FLAKE = 0.0  # captures with differing verdicts
LEAKAGE = 0.0  # marks of one episode seen by another
NONDETERMINISM = 0.01  # share of episodes that differ when replayed
BROKEN = 0.05  # share of the audit's episodes without a verdict: what cannot be judged cannot be admitted
INTERFERENCE = 0.0  # share of episodes that differ beside others
ELSEWHERE = 0.0  # tasks, episodes and verdicts that differ in another process
VOIDS = 0.0  # ways in which a policy can make an attempt void
# share of held-out and structural tasks that are training tasks, beyond chance
OVERLAP = 0.05
DUPLICATES = 0.5  # share of tasks that are the same but for a number or a name
TOLD = 0.0  # places where the answer can be read before it is earned
INFORMED = 0.0  # tasks solved only with the target at hand
LEVELS = 0.0  # pairs of levels in the wrong order
CONSTANT = 0.5  # of full marks, for an answer that is always the same, where prompts declare no chance level
CONSTANT_DOUBT = 0.25  # of full marks: from here on it is said, though training goes on
LEAKS = 0.02  # share of prompts that say their own answer after words that announce one
FORGED = 0.0  # ways to write what the verdict trusts
