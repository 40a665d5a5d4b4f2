"""``python -m allometry`` is the command line."""

from .cli.app import main

main()
