"""What a terminal shows after all that was written to it."""

import re


def screen(stream):
    """Return the lines that a terminal shows; nothing but colours, moves and erased lines may have been written."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-?]*[@-~]|[\r\n]|[^\x1b\r\n]+", stream.getvalue()):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(up[1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        else:
            assert part.endswith("m"), part  # colours alone: nothing that a killed process would leave behind
    return [line.rstrip() for line in lines]
