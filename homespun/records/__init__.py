"""Events of a run flow in; a file of metrics, lines for the console and a picture come out."""
