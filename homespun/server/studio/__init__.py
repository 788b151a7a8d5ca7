"""The studio: a page on this machine that shows runs, writes with a model and looks inside it."""
