"""``python -m softalign``: the command line."""

from softalign.cli import main

main()
