"""`homespun generate` as a script."""

import sys

from homespun.cli import main

sys.exit(main(["generate", *sys.argv[1:]]))
