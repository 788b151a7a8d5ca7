"""When things happen in a run: its clock, its pace, and the steps after which something is due."""
