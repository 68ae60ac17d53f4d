"""Where policies run: the processes that hold their weights, and the typed requests that go there.

`wire` says what is asked and answered, `transport` how it gets there, `pool` is the side that asks; none of
them loads torch. `worker` is the process, `sampler` and `learner` are what it runs.
"""
