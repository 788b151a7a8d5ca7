"""The place of this process among those that a launcher such as `torchrun` has started, from its environment."""

import os
from dataclasses import dataclass

from homespun.errors import UserError


@dataclass(frozen=True)
class Place:
    """One of several processes that train a model together."""

    rank: int
    """Its number, from 0. Rank 0 leads."""
    size: int
    """The number of all ranks."""
    on_machine: int = 0
    """Its number among the ranks of this machine."""
    size_on_machine: int = 1
    """The number of the ranks of this machine."""
    host: str = "localhost"
    """The machine of rank 0."""
    port: int = 29500
    start: int = 0
    """The number of times that the launcher has started all ranks again."""
    has_store: bool = False
    """The launcher keeps the store of the ranks, so rank 0 does not."""


def place() -> Place | None:
    """The place of this process; None for a process that trains alone.

    Raises:
        UserError: the environment does not describe one.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    try:
        found = Place(
            rank=int(os.environ["RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            on_machine=int(os.environ.get("LOCAL_RANK", "0")),
            size_on_machine=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            host=os.environ["MASTER_ADDR"],
            port=int(os.environ["MASTER_PORT"]),
            start=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            has_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the environment names no place of this process in it "
            f"({error}): start the ranks with torchrun, or unset WORLD_SIZE"
        ) from None
    if not 0 <= found.rank < found.size:
        raise UserError(f"RANK is {found.rank}: it has to be below WORLD_SIZE, {found.size}")
    return found
