"""Settings of every test: one thread, since tests run side by side, and a GL library."""

import os

from envs.parts.pixels import choose_gl

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# `import envs` does it too, but stands below `import mujoco` in tests: too late for mujoco itself.
choose_gl()
