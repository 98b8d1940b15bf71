"""Prompts from files: in order, none lost, and what is none is named by its line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.errors import DataError, MissingInputError
from softalign.geneval.prompts import official_prompts, to_json_line
from softalign.sampling.prompt_files import read_prompts

PROMPTS = ("a red circle", 'a "quoted", blue square', "ein grüner Kreis 红色")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.txt", "a red circle\n\na \"quoted\", blue square\nein grüner Kreis 红色".encode()),
        ("p", "\ufeffa red circle\r\na \"quoted\", blue square\r\nein grüner Kreis 红色\r\n".encode()),
        ("p.CSV", 'prompt,n\na red circle,1\n"a ""quoted"", blue square",2\n\nein grüner Kreis 红色,3\n'.encode()),
        ("p.jsonl", b'{"prompt": "a red circle"}\n{"prompt": "a \\"quoted\\", blue square", "n": 1}\n'
         + '{"prompt": "ein grüner Kreis 红色"}'.encode()),
    ],
)  # fmt: skip
def test_lines_and_tables(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read_prompts(str(tmp_path / name)) == PROMPTS


def test_parquet(tmp_path):
    path = str(tmp_path / "p.parquet")
    pq.write_table(pa.table({"n": [1, 2, 3], "prompt": list(PROMPTS)}), path)
    assert read_prompts(path) == PROMPTS
    pq.write_table(pa.table({"prompt": ["a", None, ""]}), path)
    with pytest.raises(DataError, match=r"row 2: no prompt; row 3: prompt is empty"):
        read_prompts(path)


def test_the_official_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(to_json_line(prompt) + "\n" for prompt in official_prompts()))
    assert read_prompts(str(path)) == tuple(prompt.prompt for prompt in official_prompts())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.txt", b"a\n\xff\xfe\nb\0c\n", "line 2: not UTF-8; line 3: a zero byte"),
        ("p.txt", b"", "no prompt in this file"),
        ("p.txt", b"\n \n", "no prompt in this file"),
        ("p.jsonl", b'{"prompt": "a"}\n[1]\nx\n{"p": 1}\n{"prompt": 3}\n{"prompt": "\\ud800"}\n{"prompt": " "}',
         "line 2: no JSON object; line 3: no JSON; line 4: no prompt; line 5: no text in prompt, but int; "
         "line 6: halves of characters; and 1 more"),
        ("p.csv", b"text\na\n", "columns text"),
        ("p.csv", b"", "columns none"),
        ("p.csv", b"prompt,prompt\na,b\n", "one column prompt"),
        ("p.csv", b'n,prompt\n1,a\n2\n3,"b"x\n', "line 3: no prompt; line 4: "),
        ("p.csv", b"prompt\n\xff\n", "line 2: not UTF-8"),
        ("p.parquet", b"PAR1", "no sound Parquet"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_named_by_its_line(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        read_prompts(str(tmp_path / name))
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError, match=r"nothing\.txt"):
        read_prompts(str(tmp_path / "nothing.txt"))
