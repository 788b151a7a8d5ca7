"""`homespun tokenizer` as a script."""

import sys

from homespun.cli.main import main

sys.exit(main(["tokenizer", *sys.argv[1:]]))
