"""Where policies run: the processes that hold their weights, and the typed requests to them.

`wire` defines requests and responses, `transport` carries them, `pool` is the asking side; none of these
loads torch. `worker` is the process; `sampler` and `learner` run in it.
"""
