"""Verdicts on the trusted side, and what tests the graders themselves."""
