"""Reads a trained model with NumPy alone, and judges the other engines."""
