"""Verdicts on the trusted side, and who watches over them."""
