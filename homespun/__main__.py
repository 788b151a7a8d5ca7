"""`python -m homespun`: the command line."""

import sys

from homespun.cli.main import main

sys.exit(main())
