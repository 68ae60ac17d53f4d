"""Verdicts on the trusted side, and evidence of cheating."""
