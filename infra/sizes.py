"""Refuse long files and long functions, from the repository's root: ``python infra/sizes.py``, a part of ``make lint``.

A function is counted from its ``def`` (decorators left out) to its last line, docstring and comments included.
Standard library alone; ruff's PLR0915 counts statements, and no linter that is installed here counts lines.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
FOLDERS = ("softalign", "tasks", "flows", "infra")


def too_long(path: Path) -> Iterator[str]:
    """Yield what is too long in a Python file: ``file`` or ``file:function`` with the number of lines."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (ValueError, SyntaxError) as error:  # of the encoding, a NUL byte, or the syntax
        yield f"{path} is no Python file: {error}"
        return
    num_lines = len(text.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path} has {num_lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.name} has {num_lines} lines"


def report(folders: Sequence[str]) -> list[str]:
    """Return what is too long below these folders."""
    absent = [folder for folder in folders if not Path(folder).is_dir()]
    missing = [f"{folder} is not there: run this from the repository's root" for folder in absent]
    paths = (path for folder in folders for path in sorted(Path(folder).rglob("*.py")))
    return missing + [line for path in paths for line in too_long(path)]


def main() -> int:
    """Write what is wrong, and return the exit code: 0 where nothing is."""
    problems = report(FOLDERS)
    limits = f"at most {MAX_FILE_LINES} lines a file and {MAX_FUNCTION_LINES} a function, its docstring included"
    sys.stdout.write("\n".join([*problems, f"Sizes: {limits}: {len(problems)} problem(s).\n"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
