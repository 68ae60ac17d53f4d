"""Verdicts on the trusted side, who watches over them, and what tests the graders themselves."""
