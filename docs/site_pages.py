"""Pages of the site that are not in this folder, and links to files of the repository.

MkDocs calls the functions `on_...` while it builds the site, as mkdocs.yml says. They add

- the Markdown files at the top of the repository that are pages, see `TOP`;
- the tutorials: examples/tutorials/*.py, as pages, notebooks, and as they are;
- whatever else of the repository a page links to, as files beside the pages.

A page may say `<!-- printed: python COMMAND -->`: what the command prints, run at the top of the
repository, stands there.
"""

import os
import pathlib
import posixpath
import re
import shlex
import subprocess
import sys

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from percent_cells import split_cells, write_notebook, write_page

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIALS = ROOT / "examples" / "tutorials"
# Files at the top, and the pages that they are, or that stand for them.
TOP = {
    "CONTRIBUTING.md": "contributing.md",
    "BUILD_NOTES.md": "build_notes.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
_PRINTED = re.compile(r"<!--\s*printed:\s*(.*?)\s*-->", re.S)


def on_config(config):
    """Put the tutorials into the navigation, and leave out pages whose file is not there."""
    pages = [f"tutorials/{path.stem}.md" for path in list_tutorials()]
    missing = [page for name, page in TOP.items() if not (ROOT / name).exists()]
    nav = [entry for entry in config.nav if list(entry.values())[0] not in missing]
    place = next(i for i, entry in enumerate(nav) if "Tutorials" in entry)
    nav[place : place + 1] = [{"Tutorials": ["tutorials/index.md", *pages]}] if pages else []
    config.nav = nav
    return config


def on_files(files, config):
    """Add the pages and files that lie elsewhere in the repository."""
    sources = {file.src_uri: DOCS / file.src_uri for file in files.documentation_pages()}
    sources |= {page: ROOT / name for name, page in TOP.items() if (ROOT / name).exists()}
    texts = {page: path.read_text() for page, path in sources.items()}
    for path in list_tutorials():
        name, cells = f"tutorials/{path.stem}", split_cells(path.read_text())
        sources[f"{name}.md"] = path
        texts[f"{name}.md"] = write_page(path.stem, cells)
        add(files, config, f"{name}.py", path.read_text())
        add(files, config, f"{name}.ipynb", write_notebook(cells))
    if list_tutorials():
        sources["tutorials/index.md"] = TUTORIALS / "index.md"
        texts["tutorials/index.md"] = list_pages(texts)
    for page, text in texts.items():
        text = outside_code(lambda part: _PRINTED.sub(lambda match: run(match[1]), part), text)
        text, linked = rewrite_links(text, page, sources[page])
        add(files, config, page, text)
        for uri, path in linked.items():
            add(files, config, uri, path.read_bytes())
    return files


def add(files, config, uri, content):
    """Add a file of the site, or another content of one that is there."""
    if uri in files.src_uris:
        files.remove(files.src_uris[uri])
    files.append(File.generated(config, uri, content=content))


def rewrite_links(text, page, source):
    """Make links to files of the repository links of the site.

    Args:
        text: of the page, Markdown.
        page: where it is in the site, as `tutorials/first.md`.
        source: path of the file that it is written in.

    Returns:
        The text, and the files that are linked but no pages: place in the site -> path.
    """
    linked = {}

    def rewrite(match):
        path = pathlib.Path(os.path.normpath(source.parent / match[2]))
        if not path.is_file() or not path.is_relative_to(ROOT):
            return match[0]  # MkDocs says what is wrong with it
        uri = find_place(path)
        if uri.startswith("files/"):
            linked[uri] = path
        target = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return outside_code(lambda part: _LINK.sub(rewrite, part), text), linked


def outside_code(change, text):
    """Change the parts of a page that are no code."""
    return "".join(x if i % 2 else change(x) for i, x in enumerate(_CODE.split(text)))


def find_place(path):
    """Where a file of the repository is in the site."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS) and not name.startswith("docs/studies/"):
        return path.relative_to(DOCS).as_posix()
    if path.parent == TUTORIALS and path.suffix == ".py":
        return f"tutorials/{path.stem}.md"
    return "index.md" if name == "README.md" else TOP.get(name, f"files/{name}")


def run(command):
    """Return what a command prints, at the top of the repository."""
    words = shlex.split(command)
    words[0] = sys.executable if words[0] == "python" else words[0]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise PluginError(f"{command}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def list_tutorials():
    """Return the paths of the tutorials, the one to begin with first."""
    return sorted(
        TUTORIALS.glob("[!_]*.py"), key=lambda path: (path.stem != "own_model", path.stem)
    )


def list_pages(texts):
    """Return the page that lists the tutorials, each with its first paragraph."""
    lines = ["# Tutorials\n", "Each is a Python file that reads from top to bottom.\n"]
    for path in list_tutorials():
        title, _, first, *_ = texts[f"tutorials/{path.stem}.md"].split("\n\n")
        lines.append(f"- [{title.lstrip('# ')}]({path.stem}.md): {' '.join(first.split())}")
    return "\n".join(lines) + "\n"
