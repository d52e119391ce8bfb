"""The `lavish` command, and ``python -m lavish``."""

import sys

from lavish.runtime.cpu_dispatch import limit
from lavish.runtime.fork_client import hand_over


def main() -> int:
    """Run one command, in this process or by the fork server that the environment names, and return its exit status."""
    limit()
    status = hand_over(sys.argv)
    if status is None:
        from lavish.cli.main import main as run_here

        status = run_here()
    return status


if __name__ == "__main__":
    sys.exit(main())
