"""Agito trains agents: model, environment and harness, closed into one loop."""

__version__ = "0.1.0"
