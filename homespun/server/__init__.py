"""HTTP on this machine: an API that other programs use, and the pages of the studio."""

INSTALL = "pip install 'homespun[studio]'"
