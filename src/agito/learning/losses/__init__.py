"""Tensor losses and packing: pure functions, each with its formula and its paper."""
