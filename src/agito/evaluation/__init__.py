"""Evaluates policies and scripts on held-out tasks."""
