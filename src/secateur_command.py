"""The command `secateur`: beside the package, so that a Ctrl-C while that is imported ends in a sentence too."""

import sys


def main() -> None:
    """Import the command line and run it."""
    try:
        from secateur.cli import main as command
    except KeyboardInterrupt:
        print("secateur: stopped.", file=sys.stderr)
        sys.exit(130)
    command()
