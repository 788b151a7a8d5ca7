"""A prompt and a model's logits flow in, text comes out."""
