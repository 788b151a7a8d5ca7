"""Named arrays flow in, files that survive a power cut come out: in the folder of a run, an
archive of weights that stands alone, and beside it one of training state.
"""

from homespun.checkpoint.archive import (
    Archive,
    ArrayInfo,
    CheckpointError,
    read_archive,
    write_archive,
)
from homespun.checkpoint.folder import Checkpoint, CheckpointFolder, open_weights, verify_path

__all__ = [
    "Archive",
    "ArrayInfo",
    "Checkpoint",
    "CheckpointError",
    "CheckpointFolder",
    "open_weights",
    "read_archive",
    "verify_path",
    "write_archive",
]
