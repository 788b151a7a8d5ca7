"""Reads a trained model with NumPy alone; the other engines are checked against it."""
