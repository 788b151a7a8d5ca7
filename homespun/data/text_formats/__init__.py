"""The kinds of files that hold text: one file a format, and the parts that they share."""
