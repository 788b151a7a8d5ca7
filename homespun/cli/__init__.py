"""Arguments flow in, one function per command runs, an error comes out as one line."""
