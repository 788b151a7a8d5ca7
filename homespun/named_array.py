"""The unit in which weights and training state flow between engines and checkpoints."""

import numpy as np
import numpy.typing as npt

NamedArray = tuple[str, npt.NDArray[np.generic]]
"""An array and its name."""
