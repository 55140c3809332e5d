"""Print what the keys of configs say, as a page in Markdown.

python examples/list_keys.py
"""

from reports import tables

from configs import keys

INTRODUCTION = """\
# Keys of configs

Each is set on the command line, as `--config.epochs=30`; a key within a term has its place before
it, as `--config.terms.distillation_loss.weight=0.5`. `--help` with a `--config` lists the keys of
that config with their values. A key without a default has its value from the config file."""


def format_page():
    """Return the page."""
    parts = [INTRODUCTION]
    for title, group in keys.GROUPS.items():
        rows = [("key", "default", "")]
        rows += [(f"`{name}`", _format(x.default), x.text) for name, x in group.items()]
        parts += [f"## {title}", tables.format_table(rows)]
    rows = [("key", ""), *((f"`{name}`", text) for name, text in keys.OF_ROWS.items())]
    parts += [
        "## Rows of terms\n\nA row of `terms` has the class and its arguments, as "
        "`terms.distillation_loss.scales`; what it does not have is the default of the class.",
        tables.format_table(rows),
    ]
    return "\n\n".join(parts)


def _format(default):
    return "" if default is keys.OF_THE_FILE else f"`{default!r}`"


if __name__ == "__main__":
    print(format_page())
