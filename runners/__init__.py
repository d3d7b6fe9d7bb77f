"""The runner: cells, sweeps, checkpoints, checks and benchmarks; knows no algorithm.

Every process of a run computes on one thread: two of them with more threads each are slower on
two cores than one alone. The matrix libraries read their number of threads when they load, so it
is set here, which `python -m runners.<command>` and every worker import before anything else.
"""

import os

THREAD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.update(THREAD_ENVIRONMENT)
