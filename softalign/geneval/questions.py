"""GenEval 2's prompts (arXiv 2512.16853): what an image shows is asked in questions, each about one atom of the prompt.

Its file has a JSON object a line: ``prompt``, ``atom_count``, ``vqa_list`` (pairs of question and right answer) and
``skills`` (of each pair). "a" is asked about too ("How many dogs are in the image?", "one") but is no atom, so there
may be more questions than atoms. The file is its authors' (CC BY-NC 4.0) and not part of softalign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from softalign.artifacts import Frozen

_Text = Annotated[str, Field(pattern=r"\S")]
Skill = Annotated[str, Field(pattern=r"^\w[\w .:-]*$", max_length=64)]
QUESTIONS_KEY = "vqa_list"


class Question(Frozen):
    """One question about an image, its right answer, and the skill that the answer shows."""

    question: _Text
    answer: _Text
    skill: Skill


class Questions(Frozen):
    """What a prompt's images are asked.

    Attributes:
        atom_count: the prompt's atoms as its authors count them.
        questions: with their right answers.
    """

    atom_count: Annotated[int, Field(ge=1)]
    questions: Annotated[tuple[Question, ...], Field(min_length=1)]

    @property
    def tag(self) -> str:
        """What prompts of as many atoms are listed under."""
        return f"atoms_{self.atom_count}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Questions:
        """Return the questions of a line of the file.

        Raises:
            ValueError, KeyError, TypeError: it is no such line.
        """
        pairs, skills = row[QUESTIONS_KEY], row["skills"]
        if not (isinstance(skills, list) and isinstance(pairs, list) and all(isinstance(one, list) for one in pairs)):
            raise TypeError("no list of pairs in vqa_list, or none of skills")
        if len(pairs) != len(skills):
            raise ValueError(f"{len(pairs)} pairs in vqa_list, but {len(skills)} skills")
        questions = [
            Question(question=question, answer=answer, skill=skill)
            for (question, answer), skill in zip(pairs, skills, strict=True)
        ]
        return cls(atom_count=row["atom_count"], questions=tuple(questions))

    def to_row(self, prompt: str) -> dict[str, Any]:
        """Return the line's object, keys in the file's order."""
        return {
            "prompt": prompt,
            "atom_count": self.atom_count,
            QUESTIONS_KEY: [[one.question, one.answer] for one in self.questions],
            "skills": [one.skill for one in self.questions],
        }
