"""Named arrays flow in, files that survive a power cut come out: in the folder of a run, an
archive of weights that stands alone, and beside it one of training state.
"""
