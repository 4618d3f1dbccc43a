"""The `svdp` command."""


def main() -> None:
    """Entry point of the `svdp` command: user errors become one line and exit code 2."""
    from .app import run

    run()
