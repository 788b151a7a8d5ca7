"""`homespun train` as a script."""

import sys

from homespun.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
