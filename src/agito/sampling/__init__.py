"""Inference: capture, where tokens are recorded, and the engines behind it. `runtime/policies.py` opens the
one that a recipe names (`compute.sampler`).
"""
