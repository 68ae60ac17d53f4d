"""Replays recorded episodes and recorded updates."""
