"""The command line: ``softalign COMMAND``; ``app`` has the chain's commands, its neighbours the others."""

from softalign.cli.app import main

__all__ = ["main"]
