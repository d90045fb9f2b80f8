"""`python -m hklflow.cli` is the command `hklflow`."""

from hklflow.cli import main

if __name__ == "__main__":
    main()
