"""`homespun generate` as a script."""

import sys

from homespun.cli.main import main

sys.exit(main(["generate", *sys.argv[1:]]))
