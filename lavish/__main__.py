"""``python -m lavish``: the same as the `lavish` command."""

import sys

from lavish.cli import main

sys.exit(main())
