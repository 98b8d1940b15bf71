"""What pyproject.toml declares is what the packages import, and each extra's modules stay within it."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_ANOTHER = {"pydantic-core": "pydantic", "requests": "mlflow", "sqlalchemy": "mlflow"}
"""Imported to name their errors; they are parts of a dependency."""
NOT_IMPORTED = {
    "rich": "Typer prints with it",
    "fastapi": "the version that Prefect's server works with",
    "s3fs": "fsspec opens s3:// with it",
}


def declared(extra=None):
    requirements = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(*folders):
    """Return which distributions the code below some folders imports, in functions too."""
    names = set()
    for path in (found for folder in folders for found in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    owners = packages_distributions()
    others = names - sys.stdlib_module_names - {"softalign", "tasks", "flows"}
    return {canonicalize_name(owners[name][0]) for name in others}


def test_what_is_imported_is_declared():
    found = {OF_ANOTHER.get(name, name) for name in imported("softalign", "tasks", "flows")}
    found = {"mlflow" if name.startswith("mlflow") else name for name in found}
    assert found <= declared() | declared("pipeline")


def test_what_is_declared_is_imported():
    found = imported("softalign", "tasks", "flows") | NOT_IMPORTED.keys()
    assert declared() - found == set()
    assert {name for name in declared("pipeline") - found if not name.startswith("mlflow")} == set()
