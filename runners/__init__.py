"""The runner: cells, sweeps, checkpoints, checks and benchmarks; knows no algorithm."""
