"""Weights on their way from the learner of a policy to its samplers. Addresses (`address`) load without
torch, channels do not.
"""
