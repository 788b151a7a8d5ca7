"""`homespun download` as a script."""

import sys

from homespun.cli.main import main

sys.exit(main(["download", *sys.argv[1:]]))
