"""Batches of tokens flow in; optimizer steps, losses, logits and weights come out. No other part knows a framework."""
