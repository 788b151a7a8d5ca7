"""Named arrays flow in, files that survive a power cut flow out.

A checkpoint in the folder of a run is an archive of weights, which is complete by itself, and an archive of training
state beside it.
"""
