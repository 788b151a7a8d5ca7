"""A run as it is reported: its record, and the conclusions from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from homespun.reporting.diagnosis import Diagnosis
from homespun.reporting.reference import Comparison
from homespun.reporting.run_record import RunRecord


@dataclass(frozen=True)
class Reported:
    """A run on the page."""

    run: RunRecord
    name: str
    diagnoses: Sequence[Diagnosis]
    comparison: Comparison | None
    no_comparison: str
    """Why there is no comparison, in a sentence."""
