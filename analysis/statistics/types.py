"""Types of numpy arrays."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Values, scores or steps."""

Counts = NDArray[np.int64]
