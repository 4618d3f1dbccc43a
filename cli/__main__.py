"""`python -m svdp.cli`, where the `svdp` command is not on the path."""

from . import main

main()
