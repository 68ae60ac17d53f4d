"""Weights on their way from a policy's learner to its samplers. `address` loads without torch; channels load
it."""
