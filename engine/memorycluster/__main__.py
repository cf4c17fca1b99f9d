"""``python -m memorycluster``: the command line."""

from typing import NoReturn

from memorycluster.cli.main import main
from memorycluster.exit import exit_with


def command() -> NoReturn:
    """Run the command line, and end the process."""
    exit_with(main)


if __name__ == "__main__":
    command()
