"""All ways to spoil a story, by name."""

from tests.stories import spoiled_course, spoiled_facts
from tests.stories.spoiling import MUTATIONS

__all__ = ["MUTATIONS", "spoiled_course", "spoiled_facts"]
