"""Losses, credit and the trainer."""
