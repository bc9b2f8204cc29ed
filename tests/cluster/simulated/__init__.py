"""Run a whole cluster in one thread and virtual time, with faults from a seed: the real logic, simulated surroundings.

`world` is time, `clocks` what nodes think of it, `links` what may happen between them, `election` what a coordinator
promises, `host` the process around one node's logic with its GPUs, `faults` what goes wrong, `checkers` what must hold
all the same, `run` puts a cluster together from a seed. `python -m tests.cluster.simulated --help` runs many.
"""
