"""Search for the settings of a run: trials as processes, pruning, and what they teach."""
