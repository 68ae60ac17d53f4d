"""Recorded episodes and updates, done again."""
