"""Programs under infra/ as modules: they lie outside of any package, beside the modules they import."""

import importlib.util
from pathlib import Path

INFRA = Path(__file__).parents[1] / "infra"


def load_script(name):
    """Return a program of infra/ as a module, by its name without ending."""
    spec = importlib.util.spec_from_file_location(name, INFRA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
