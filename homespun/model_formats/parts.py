"""Parameters that a file holds in several tensors: parts flow in, whole parameters flow out, and back."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from homespun.architectures.base import Parameter, Part
from homespun.model_formats.numbers import Floats

ReadTensor = Callable[[], Floats]


def part_shape(parameter: Parameter, part: Part) -> tuple[int, ...]:
    """The shape of a part. A damaged file may describe sizes that no array can have."""
    whole = (slice(None),) * (len(parameter.shape) - len(part.place))
    shape = []
    for size, place in zip(parameter.shape, (*part.place, *whole), strict=True):
        if isinstance(place, slice):
            begin, end, step = place.indices(size)
            shape.append(max(0, -((begin - end) // step)))
    return tuple(shape)


def joined(
    parameter: Parameter, parts: Sequence[Part], read: Mapping[str, ReadTensor]
) -> ReadTensor:
    """A function that reads a parameter; `read` has those of its parts, by name."""
    if len(parts) == 1:
        return read[parts[0].name]

    def read_all() -> Floats:
        values = np.empty(parameter.shape, np.float32)
        for part in parts:
            values[part.place] = read[part.name]()
        return values

    return read_all
