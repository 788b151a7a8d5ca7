"""Text flows in, from the hub, a file or the built-in stories; training and validation tokens come out."""
