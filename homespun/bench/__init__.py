"""The speed of this machine, of training and of generation on it, as a table and as a report."""
