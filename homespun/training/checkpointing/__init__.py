"""The position of a run goes to the disk and comes back, so that a resumed run continues bit for bit."""
