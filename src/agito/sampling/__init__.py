"""Inference: capture, where tokens are recorded, and the engines behind it."""
