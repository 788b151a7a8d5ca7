"""The folders of runs flow in; a diagnosis of each, or one HTML page about all of them, comes out."""
