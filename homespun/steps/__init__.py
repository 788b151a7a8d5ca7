"""The training step in single parts, to type and to change: model, loss, gradients, clipping, AdamW, schedule.

Token ids flow in, a trained model comes out. All of it is computed by the engine that trains a run, so that the same
batches give the same numbers as `homespun train`. Gradients come out as NumPy arrays and go back in.
"""
