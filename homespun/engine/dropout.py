"""Which numbers of the stream are dropped out: seed, step, site, token and channel in, kept or not out, by arithmetic.

There is no generator whose state would have to be stored: a run that goes on, on another engine too, drops what the
uninterrupted one would. This is the reference; each engine computes the same bits in its own tensors.

Sites are where the embeddings enter the stream (0), and where each block's attention (2 i + 1) and feed-forward layer
(2 i + 2) add to it (Radford et al., 2018; the attention weights themselves are left alone). Tokens are counted over all
micro-batches of a step, so how it is divided does not matter.
"""

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint32]

FIRST, SECOND = 0x7FEB352D, 0x846CA68B
"""Multipliers of the hash."""
BETWEEN_KEYS = 0x9E3779B9
"""The golden ratio's digits; without it, zeros would hash to zero."""


def hashed(bits: Bits) -> Bits:
    """A permutation of the 32-bit numbers in which each bit of the result depends evenly on all that went in
    (`lowbias32`, Wellons, 2018); products wrap around."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(FIRST)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(SECOND)
    return bits ^ (bits >> np.uint32(16))


def site_keys(seed: int, step: int, n_layers: int) -> Bits:
    """What the masks of a step begin with, one for each site, [2 n_layers + 1]."""
    keys = np.zeros(2 * n_layers + 1, dtype=np.uint32)
    for number in (seed, seed >> 32, step, np.arange(len(keys))):
        low = np.asarray(number & 0xFFFFFFFF, dtype=np.uint32)
        keys = hashed((keys ^ low) + np.uint32(BETWEEN_KEYS))
    return keys


def threshold(rate: float) -> int:
    """A share `rate` of all 32-bit numbers, read with a sign, is below it."""
    return round(rate * 2**32) - 2**31


def scale(rate: float) -> float:
    """What is kept is multiplied by it, so that sums stay the same on average (Srivastava et al., 2014)."""
    return 1 / (1 - rate)


def kept(key: np.uint32, tokens: Bits, n_channels: int, rate: float) -> npt.NDArray[np.bool_]:
    """Whether each channel of each token, by its number in the step, stays: tokens [N] -> [N, n_channels]."""
    of_token = hashed(tokens ^ key)[:, None]
    bits = hashed(of_token ^ np.arange(n_channels, dtype=np.uint32))
    return bits.view(np.int32) >= threshold(rate)
