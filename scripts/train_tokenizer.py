"""`homespun tokenizer` as a script."""

import sys

from homespun.cli import main

sys.exit(main(["tokenizer", *sys.argv[1:]]))
