"""A page of HTML in one file, to be read on a phone and on a desk."""

import html

STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
.matrix td, .matrix th { padding: .15rem .3rem; font-size: .8rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1.25rem; }
.card { flex: 1 1 20rem; max-width: 28rem; }
.card div { display: flex; gap: .5rem; } .card figure { margin: 0; flex: 1 1 0; }
.card img, .chart { width: 100%; } .chart { max-width: 32rem; display: block; }
@media (max-width: 32rem) {
  body { padding: .75rem; } table { font-size: .75rem; } th, td { padding: .2rem .25rem; }
  .matrix td, .matrix th { padding: .1rem .15rem; font-size: .7rem; } }
figcaption, .note { color: #555; font-size: .85rem; }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .6rem; font-size: .8rem; }
"""


def write_page(path, title, parts):
    """Write a page of that title, `parts` its HTML, to a file."""
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    page += "\n".join(parts) + "\n</body>\n</html>\n"
    # Names of files may hold bytes that are no letters.
    path.write_text(page, encoding="utf-8", errors="replace")


def format_table(rows):
    """Return a table of rows of texts, the first of which is the head."""
    head = "".join(f"<th>{escape(x)}</th>" for x in rows[0])
    lines = ["".join(f"<td>{escape(x)}</td>" for x in row) for row in rows[1:]]
    body = "".join(f"<tr>{x}</tr>" for x in lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def format_note(text):
    """Return a paragraph of small letters."""
    return f'<p class="note">{escape(text)}</p>'


def escape(text):
    """Return a text so that a page shows it as it is."""
    return html.escape(str(text))
