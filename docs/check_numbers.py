"""Check that the numbers in the docs are those that programs print from committed results.

    python docs/check_numbers.py
    python docs/check_numbers.py docs/studies.md

A comment above a paragraph, list or table says where its numbers come from:

    <!-- numbers: python examples/study.py --config=configs/studies.py:digits --results=... -->

The command is run, and the numbers in the block must be among those that it prints, to as many
digits as are written: all of a table's, and of other text decimals and percentages. Blocks with
decimals and without such a comment are listed: with --strict they count as mistakes.
`<!-- numbers: REASON -->` with anything but a command says why there is none.
"""

import argparse
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MARK = re.compile(r"<!--\s*numbers:\s*(.*?)\s*-->", re.S)
_NUMBER = re.compile(r"(?<![\w.,/=-])[+-]?\d[\d,]*(?:\.\d+)?(?![\w/=-]|\.\d)")


def split_blocks(text):
    """Return (source, block) of each paragraph, list or table; "" where no comment says one.

    Code is left out. A comment holds for the block that follows it.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", " ", text)
    blocks, source = [], ""
    for block in re.split(r"\n\s*\n", text):
        marks = _MARK.findall(block)
        source = " ".join(marks[-1].split()) if marks else source
        block = _MARK.sub("", block).strip()
        if block and not block.startswith("#"):
            blocks.append((source, block))
            source = ""
    return blocks


def find_numbers(text):
    """Return the numbers of a text as they are written, without signs and thousands' commas."""
    return [x.replace(",", "").lstrip("+-") for x in _NUMBER.findall(text)]


def find_claims(block):
    """Return the numbers of a block that have to come from somewhere."""
    if block.startswith("|"):
        return find_numbers(block)
    numbers = re.finditer(_NUMBER.pattern + r"(?P<percent> %)?", block)
    return [
        x[0].removesuffix(" %").replace(",", "").lstrip("+-")
        for x in numbers
        if "." in x[0] or x["percent"]
    ]


def is_printed(number, printed):
    """Whether a number is one of those printed, rounded to its digits."""
    digits = len(number.partition(".")[2])
    return any(f"{float(x):.{digits}f}" == f"{float(number):.{digits}f}" for x in printed)


def run(command):
    """Return what a command prints, at the top of the repository."""
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def check(path, outputs):
    """Return the mistakes in a page, and its blocks with decimals that nothing stands for.

    Args:
        path: of a Markdown file.
        outputs: command -> what it printed, filled here.
    """
    mistakes, unmarked = [], []
    for source, block in split_blocks(path.read_text()):
        numbers, start = find_claims(block), " ".join(block.split())[:60]
        if not source:
            if any("." in number for number in numbers):
                unmarked.append(f"{path.name}: {start}")
            continue
        if not source.startswith("python "):
            continue
        if source not in outputs:
            outputs[source] = find_numbers(run(source))
        missing = [x for x in numbers if not is_printed(x, outputs[source])]
        if missing:
            mistakes.append(f"{path.name}: {start}\n  not printed: {', '.join(missing)}")
    return mistakes, unmarked


def main():
    """Check the pages and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    parser.add_argument("--strict", action="store_true", help="unmarked blocks are mistakes")
    options = parser.parse_args()
    pages = options.pages or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    outputs: dict = {}
    mistakes, unmarked = [], []
    for page in pages:
        found = check(page, outputs)
        mistakes += found[0]
        unmarked += found[1]
    print(f"{len(pages)} pages, {len(outputs)} commands, {len(mistakes)} blocks with mistakes")
    print("\n".join(mistakes))
    if unmarked:
        print(f"{len(unmarked)} blocks with decimals of unknown origin:")
        print("\n".join(unmarked))
    sys.exit(bool(mistakes) or (options.strict and bool(unmarked)))


if __name__ == "__main__":
    main()
