"""`python -m gitrel`."""

import sys

from gitrel.cli import main

sys.exit(main())
