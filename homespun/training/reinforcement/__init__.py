"""Runs with a reward: answers are sampled and scored, and the steps learn from the scores."""
