"""From a study's name or file to a checked ``StudyFile``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from softalign.config.loading import read_yaml, yaml_problem
from softalign.errors import ConfigError
from softalign.problems import did_you_mean, problems
from softalign.study.matrix import StudyFile


def study_names() -> tuple[str, ...]:
    """Return the names of the studies that come with the package."""
    folder = resources.files("softalign") / "studies"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def folder_of(name_or_path: str) -> Path:
    """Return the folder that a study's file lies in."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path.absolute().parent
    return Path(str(resources.files("softalign") / "studies"))


def load_study(name_or_path: str) -> StudyFile:
    """Return the study of that name or YAML file.

    Raises:
        ConfigError: there is none, it is not YAML, or it has problems; all of them are listed.
    """
    text, where = _text(name_or_path)
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError("The study is not valid YAML.", found=yaml_problem(error), where=where) from None
    return parse_study(data, where)


def parse_study(data: Any, where: str) -> StudyFile:
    """Return a study given as plain data.

    Args:
        data: what its file says.
        where: what errors call it.

    Raises:
        ConfigError: it has problems; all of them are listed.
    """
    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        sentences = problems(error, StudyFile)
        number = "one problem" if len(sentences) == 1 else f"{len(sentences)} problems"
        raise ConfigError(
            f"The study has {number}:\n" + "\n".join(f"    {sentence}" for sentence in sentences),
            where=where,
            fix="correct these fields; softalign/studies has studies to begin with",
        ) from error


def _text(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        if name_or_path not in study_names():
            raise ConfigError(
                f"There is no study named {name_or_path!r}{did_you_mean(name_or_path, study_names()) or '.'}",
                expected=f"one of {', '.join(study_names())}, or the path of a .yaml file",
                found="a folder of that name" if path.is_dir() else name_or_path,
            )
        resource = resources.files("softalign") / "studies" / f"{name_or_path}.yaml"
        return resource.read_text(encoding="utf-8"), f"study {name_or_path}"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except ValueError as error:
        raise ConfigError("The study is not UTF-8 text.", found=str(error), where=str(path)) from error
    except OSError as error:
        raise ConfigError(
            "The study's file cannot be read.",
            found=error.strerror or str(error),
            where=str(path),
            fix="check the path and its permission",
        ) from error
