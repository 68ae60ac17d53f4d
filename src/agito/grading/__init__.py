"""Verdicts on the trusted side, from captured data."""
