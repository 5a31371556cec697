"""`python -m autoslim.cli`."""

from autoslim.cli.app import main

main()
