"""Dropout masks by arithmetic: seed, step, site, token and channel flow in, the numbers to keep flow out.

There is no generator state to store, so a resumed run drops the same numbers as the uninterrupted one, on any engine.
This file is the reference; each engine computes the same bits with its own tensors.

The sites are the embeddings (0) and the outputs of each block's attention (2 i + 1) and feed-forward layer (2 i + 2),
each before it is added to the residual stream (Radford et al., 2018). Attention weights are not dropped. Tokens are
numbered over all micro-batches of a step, so the masks do not depend on the division into micro-batches.
"""

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint32]

HASH_MULTIPLIERS = 0x7FEB352D, 0x846CA68B
"""Of `lowbias32`."""
KEY_INCREMENT = 0x9E3779B9
"""The first digits of the golden ratio. Without the increment, zeros would hash to zero."""


def hash_bits(bits: Bits) -> Bits:
    """A permutation of the 32-bit numbers in which each bit of the result depends evenly on all bits of the input
    (`lowbias32`, Wellons, 2018). Products wrap around."""
    first, second = HASH_MULTIPLIERS
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(first)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(second)
    return bits ^ (bits >> np.uint32(16))


def site_keys(seed: int, step: int, n_layers: int) -> Bits:
    """The hash keys of a step, one for each site, [2 n_layers + 1]."""
    keys = np.zeros(2 * n_layers + 1, dtype=np.uint32)
    for number in (seed, seed >> 32, step, np.arange(len(keys))):
        low = np.asarray(number & 0xFFFFFFFF, dtype=np.uint32)
        keys = hash_bits((keys ^ low) + np.uint32(KEY_INCREMENT))
    return keys


def threshold(rate: float) -> int:
    """Numbers whose hash, read as a signed integer, is below this are dropped: a fraction `rate` of all."""
    return round(rate * 2**32) - 2**31


def scale(rate: float) -> float:
    """The factor for the numbers that stay, which keeps the expected value (Srivastava et al., 2014)."""
    return 1 / (1 - rate)


def keep_mask(key: np.uint32, tokens: Bits, n_channels: int, rate: float) -> npt.NDArray[np.bool_]:
    """Which channels of which tokens stay; tokens [N], their numbers in the step -> [N, n_channels]."""
    token_hash = hash_bits(tokens ^ key)[:, None]
    bits = hash_bits(token_hash ^ np.arange(n_channels, dtype=np.uint32))
    return bits.view(np.int32) >= threshold(rate)
