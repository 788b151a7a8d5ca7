"""Search for the settings of a run: trials as processes, pruning, and a verdict."""
