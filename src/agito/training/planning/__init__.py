"""Simulates how a run would spend its time."""
