"""Leaves out documents that teach little: copies of others, and poor ones. It reports each reason."""
