"""A run before it starts: its settings, its length, its time and memory. Nothing is written."""
