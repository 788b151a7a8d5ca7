"""Runs with preferences: the steps learn from pairs of a better and a worse answer."""
