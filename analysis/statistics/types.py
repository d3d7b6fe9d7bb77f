"""Types that the whole analysis shares."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Values, scores or steps."""

Counts = NDArray[np.int64]

Better = Literal["higher", "lower"]
"""Which of two values is the better one."""
