"""The time of each step flows in; one notice comes out if the machine computes far more slowly than it did before.

The cause is outside the run: other programs, heat, a battery. Only the time is affected, so the notice is no record.
"""

from dataclasses import dataclass

BLOCK_SECONDS = 10.0
LEAST_BLOCK_STEPS = 3
"""Steps are timed in blocks of at least so much of both, so that one slow step says nothing."""
SLOW = 0.6
"""A block is slow if its speed is below this share of the fastest one. Heat alone costs a laptop less."""
SLOW_BLOCKS = 3
"""So many slow blocks in a row are worth a notice."""
LESS_PROCESSOR_TIME = 0.8
"""If the run gets less than this share of the processor time that it got, other programs have the rest."""


@dataclass
class _Block:
    steps: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds

    @property
    def processors(self) -> float:
        """Mean number of processors that computed."""
        return self.processor_seconds / self.seconds


class Pace:
    """Compares the speed of the steps with the fastest since the process began: a resumed run may have another
    machine."""

    def __init__(self, tokens_per_step: int, *, on_cpu: bool, has_budget: bool) -> None:
        self._tokens_per_step = tokens_per_step
        self._on_cpu, self._has_budget = on_cpu, has_budget
        self._block = _Block()
        self._fastest: _Block | None = None
        self._slow: list[_Block] = []
        self._said = False

    def observe(self, seconds: float, processor_seconds: float) -> str | None:
        """Count a step with its time, and that of all processors for this process; the notice, once."""
        block = self._block
        block.steps += 1
        block.seconds += seconds
        block.processor_seconds += processor_seconds
        if block.steps < LEAST_BLOCK_STEPS or block.seconds < BLOCK_SECONDS:
            return None
        self._block = _Block()
        if self._fastest is None or block.speed > self._fastest.speed:
            self._fastest = block
        self._slow = [*self._slow, block] if block.speed < SLOW * self._fastest.speed else []
        if self._said or len(self._slow) < SLOW_BLOCKS:
            return None
        self._said = True
        return self._notice(self._fastest)

    def _notice(self, fastest: _Block) -> str:
        slow = _Block(
            sum(block.steps for block in self._slow),
            sum(block.seconds for block in self._slow),
            sum(block.processor_seconds for block in self._slow),
        )
        now, then = (self._tokens_per_step * block.speed for block in (slow, fastest))
        effect = (
            "The run makes fewer steps in its time" if self._has_budget else "The run takes longer"
        )
        cause = self._cause(slow, fastest)
        return (
            f"The machine trains {now:,.0f} tokens/s now, and trained {then:,.0f} before: {cause}. "
            f"{effect}; the result of a step is the same."
        )

    def _cause(self, slow: _Block, fastest: _Block) -> str:
        if not self._on_cpu:
            return "other programs use the GPU, or heat or a battery slows it down"
        got = slow.processors / max(fastest.processors, 1e-9)
        if got < LESS_PROCESSOR_TIME:
            return f"other programs use the processor, of which this run gets {got:.0%} of its earlier time"
        return "heat or a battery slows the processor down, or other programs use the memory"
