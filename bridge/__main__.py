"""`python -m bridge` is `mlbridge`."""

from bridge.cli.app import main

if __name__ == "__main__":
    main()
