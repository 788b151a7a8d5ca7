"""The command line: everything else in the package is imported when a command needs it."""
