"""Runs that begin with a trained model: its shape and weights, its chat template, and the base below LoRA."""
