"""Everything that a run tells: its evaluations and samples, the events for its listeners, the summary at its end."""
