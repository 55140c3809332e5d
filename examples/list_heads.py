"""Write the table of the classifiers of keras.applications and KerasHub: docs/heads.md.

    KERAS_BACKEND=tensorflow python examples/list_heads.py --libraries=keras,keras_hub

For each it says how the logits of regions are found, or why there are none. Models are built with
random weights, in two minutes. KerasHub is needed (`pip install keras-hub`), and TensorFlow
or JAX: under PyTorch, Keras 3.15 does not build NASNetMobile.
"""

import gc
import inspect
import logging
import pathlib
import re
import sys
import time

import keras
from absl import app, flags
from libraries import keras_hub_classifiers

import keras_sdd
from keras_sdd.head_search import Pooling, Search, keeps_vector
from keras_sdd.heads import find_head

SCALES = (1, 2, 4)
LINEAR = "by itself, linear"
OWN = "by itself, own head"
PATCHES = "`patch_tokens=True`"
REFUSED = "refused"
TITLES = {"keras": "keras.applications", "keras_hub": "KerasHub"}
_INTRODUCTION = f"""\
# Heads of known classifiers

How regions of scales {SCALES} get logits in the classifiers of {{names}}:

- **{LINEAR}**: cells are means of a map of logits, as the image's logits are.
- **{OWN}**: each region is pooled and classified as the model does with the whole map.
- **{PATCHES}**: likewise, of `expose_spatial_logits(model, patch_tokens=True)`.
- **{REFUSED}**: no region has logits of its own; `scales=(1,)` still gives plain distillation.

The head is what comes from the pooling on, without dropout and reshapes.
`python examples/list_heads.py` wrote this page, with {{versions}}.
"""
_NOTES = {
    "keras": "",
    "keras_hub": """\
Small backbones stand for the presets. Those for images of any size, `image_shape=(None, None, 3)`,
take the size from the other model of the pair or from the data. VGG convolves 7 x 7 positions
before it pools: of images of 224 x 224 that leaves a map of 1 x 1, whose regions are all the image.

""",
}


def list_applications():
    """Yield the names of the classifiers of keras.applications."""
    for name, _ in inspect.getmembers(keras.applications, inspect.isfunction):
        if name[0].isupper():
            yield name


def list_keras_hub():
    """Yield class and variant of the image classifiers of KerasHub."""
    import keras_hub

    for name in dir(keras_hub.models):
        if name.endswith("ImageClassifier"):
            for variant in keras_hub_classifiers.VARIANTS.get(name, [""]):
                yield name, variant


def build_application(name, size=128):
    """Build a classifier of keras.applications for small images."""
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(size, size, 3), classes=10)


def describe(model):
    """Return how a classifier's regions get logits, and its head in words."""
    try:
        keras_sdd.Network(model).cells(SCALES)
        how = LINEAR if find_head(model, frozen=False).is_linear else OWN
        return how, _describe_head(Search(model))
    except ValueError as error:
        reason = _shorten(error)
    try:
        exposed = keras_sdd.expose_spatial_logits(model, patch_tokens=True)
        keras_sdd.Network(exposed).cells(SCALES)
        return PATCHES, _describe_head(Search(model, patch_tokens=True))
    except ValueError:
        return f"{REFUSED}: {reason}", ""


def _shorten(error):
    """Return what is in the way, without the layer's name, which counts the models built."""
    reason = str(error).removeprefix("The head cannot be exposed: ").split(";")[0]
    reason = reason.split(", with weights of their own")[0]
    return re.sub(r"^(\w+) '[^']*'", r"\1", reason).replace("\n", " ").replace("|", "/")


def _describe_head(search):
    """Return the kinds of the layers from the pooling on, in order."""
    calls = [x for x in search.made.values() if isinstance(x, Pooling) or not _is_left_out(x)]
    return ", ".join(map(_describe_call, calls))


def _is_left_out(call):
    return keeps_vector(call.operation) or type(call.operation).__name__ == "Dropout"


def _describe_call(call):
    kind = type(call.operation).__name__
    if getattr(call, "kind", None) == "token":
        return f"{kind} (a token)"
    activation = getattr(getattr(call.operation, "activation", None), "__name__", "linear")
    return kind if activation in ("linear", "softmax") else f"{kind} ({activation})"


def make_row(label, build):
    """Return a row of the table, whatever happens."""
    try:
        model = build()
    except Exception as error:  # of the library, of whatever kind
        return [label, f"not built: {_shorten(error)}", ""]
    try:
        return [label, *describe(model)]
    except Exception as error:  # a fault of ours: to be seen, in the table too
        return [label, f"failed: {type(error).__name__}: {_shorten(error)}", ""]


def list_models(library):
    """Return (label, function that builds the model) for the models of a library."""
    if library == "keras":
        return [(f"`{x}`", lambda x=x: build_application(x)) for x in list_applications()]
    return [
        (
            f"`{name}`" + (f" `{variant}`" if variant else ""),
            lambda name=name, variant=variant: keras_hub_classifiers.build(name, variant),
        )
        for name, variant in list_keras_hub()
    ]


def make_page(libraries, report=print):
    """Return the text of the page; `report` is called with lines of progress."""
    jobs = [(library, *job) for library in libraries for job in list_models(library)]
    tables = {library: [["model", "logits of regions", "head"]] for library in libraries}
    start = time.monotonic()
    for done, (library, label, build) in enumerate(jobs, 1):
        row = make_row(label, build)
        tables[library].append(row)
        gc.collect()  # models refer to themselves, and some fill a gigabyte
        keras.utils.clear_session(free_memory=True)
        left = (time.monotonic() - start) / done * (len(jobs) - done)
        report(f"[{done}/{len(jobs)}] {label}: {row[1]} ({left:.0f} s left)")
    versions = [f"{name} {sys.modules[name].__version__}" for name in libraries]
    names = [TITLES[x] for x in libraries]
    parts = [_INTRODUCTION.format(names=" and ".join(names), versions=" and ".join(versions))]
    for library, rows in tables.items():
        parts.append(f"## {TITLES[library]}\n\n{_NOTES[library]}{_format(rows)}\n")
    return "\n".join(parts)


def _format(rows):
    lines = [f"| {' | '.join(row)} |".replace("  |", " |") for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main(argv):
    """Write the page."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    logging.getLogger("keras_sdd").setLevel("ERROR")  # small maps are no matter here
    output = pathlib.Path(flags.FLAGS.output)
    libraries = flags.FLAGS.libraries
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(make_page(libraries, lambda line: print(line, flush=True)))
    print(output)


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_list("libraries", list(TITLES), "Which: keras, keras_hub.")
    flags.DEFINE_string("output", "docs/heads.md", "The file to write.")
    flags.register_validator(
        "libraries",
        lambda names: bool(names) and set(names) <= set(TITLES),
        f"must be of {', '.join(TITLES)}",
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
