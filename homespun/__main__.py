"""`python -m homespun`: the command line."""

import sys

from homespun.cli import main

sys.exit(main())
