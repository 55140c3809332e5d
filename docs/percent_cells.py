"""Python files of percent cells, as pages and as notebooks."""

import json
import re

_CELL = re.compile(r"^# %%(.*)$", re.M)


def split_cells(text):
    """Return (kind, text) of the cells of a percent file: "markdown" or "code"."""
    _, *parts = _CELL.split(text)
    cells = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        kind = "markdown" if "[markdown]" in title else "code"
        if kind == "markdown":
            body = re.sub(r"^# ?", "", body, flags=re.M)
        if body.strip():
            cells.append((kind, body.strip("\n")))
    return cells


def write_page(name, cells):
    """Return a tutorial as a page, with links to its file and notebook below the title."""
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
    title, _, rest = parts[0].partition("\n")
    links = f"[Python file]({name}.py){{download}} · [notebook]({name}.ipynb){{download}}"
    return "\n\n".join([title, links, rest.strip(), *parts[1:]]) + "\n"


def write_notebook(cells):
    """Return a tutorial as a notebook that has not been run."""
    made = []
    for kind, text in cells:
        cell = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4}
    return json.dumps(notebook | {"nbformat_minor": 4}, indent=1)
