"""One file for each tracker, found by its name: a run and its values flow in, files or messages come out.

A new tracker is a new file here with a class `Tracker`, see `records.tracking`, and an extra of that name in the
project file.
"""
