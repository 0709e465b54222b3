"""`mlbridge`, and `python -m bridge`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly also in the second that it takes to load."""
    try:
        from bridge.cli.app import main as run  # noqa: PLC0415 - see above
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
