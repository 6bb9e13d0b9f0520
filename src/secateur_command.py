"""The command `secateur`: beside the package, so that a Ctrl-C while that is imported ends in a sentence too."""

import sys


def main() -> None:
    """Import the command line and run it."""
    try:
        from secateur.cli import main as command
    except KeyboardInterrupt:
        print("secateur: stopped.", file=sys.stderr)
        sys.exit(130)
    except ImportError as error:
        from secateur.core.errors import MissingExtraError

        if not isinstance(error, MissingExtraError):
            raise
        print(f"secateur: {error}", file=sys.stderr)
        sys.exit(2)
    command()
