"""The pages: their code runs, their links lead somewhere, and every public name is on one."""

import inspect
import json
import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest
from backends import BACKEND
from small_classifiers import build_cnn, draw_data

import keras_sdd

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs")]

import percent_cells  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = sorted({*ROOT.glob("*.md"), *PAGES})
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
alike = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

# A block of Python, and the comment above it, which says why it is not run, or has lines to run
# before: `<!-- not run: REASON -->`, `<!-- run first: CODE -->`.
_BLOCK = re.compile(
    r"(?:^<!--\s*(not run|run first):\s*(.*?)\s*-->\n)?^```python\n(.*?)^```", re.M | re.S
)


def find_blocks(path):
    """Return (comment, what it says, code) of the blocks of a page."""
    text = path.read_text()
    return [] if "```python" not in text else [match.groups() for match in _BLOCK.finditer(text)]


class Batches(keras.utils.PyDataset):
    """A data set of one batch of eight images."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return draw_data(8)


def build_torch_module():
    import torch

    body = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    module = torch.nn.Sequential(*body, torch.nn.Flatten(), torch.nn.Linear(8, 1000))
    module.default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    return module


def give_maps(images):
    """A teacher of NumPy: maps of logits (B, 4, 4, 4)."""
    return images[:, ::4, ::4, :1] * np.arange(4, dtype="float32")


def make_names():
    """What the code of a page may use without making it."""
    x, y = draw_data(8)
    batches = Batches()
    session = types.SimpleNamespace(
        get_inputs=lambda: [types.SimpleNamespace(name="images")],
        run=lambda _, feed: [give_maps(feed["images"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)],
    )
    return {
        "keras": keras,
        "keras_sdd": keras_sdd,
        "np": np,
        "function": give_maps,  # a teacher that is no model
        "module": build_torch_module() if BACKEND == "torch" else None,
        **{name: x for name in ("x", "x_train", "x_val", "x_test")},
        **{name: y.copy() for name in ("y", "y_train", "y_val", "y_test")},
        **{name: batches for name in ("train", "test", "train_ds", "val_ds", "test_ds")},
        "steps_per_epoch": 1,
        # Libraries of others, and what they would download.
        "timm": types.SimpleNamespace(create_model=lambda *_, **__: build_torch_module()),
        "onnxruntime": types.SimpleNamespace(InferenceSession=lambda path: session),
    }


def write_teacher(path):
    build_cnn(4).save(path)


def write_checkpoint(path):
    import torch

    state = keras_sdd.converters.to_torch_state_dict(keras_sdd.models.build("small/cnn_8_16_32"))
    torch.save({name: torch.as_tensor(value) for name, value in state.items()}, path)


# The files that a block may name.
WRITERS = {"teacher.keras": write_teacher, "resnet32x4.pth": write_checkpoint}


@pytest.fixture
def small_things(monkeypatch):
    """Small networks and data in place of those that the pages name, and one device."""
    load, build = keras_sdd.data.load, keras_sdd.models.build
    given = {name: getattr(keras_sdd.Distiller, name) for name in ("compile", "fit")}
    small = {"num_classes": 4, "image_size": 16, "num_examples": 8}

    def load_synthetic(name, *arguments, **options):
        return load("synthetic", *arguments, **small | options)

    def build_small(name, *arguments, **options):
        return build("small/cnn_8_16_32", *arguments, **options)

    def compile_nothing(self, *arguments, **options):  # as that takes longer than a step
        options |= {"run_eagerly": BACKEND == "tensorflow", "jit_compile": False}
        given["compile"](self, *arguments, **options)

    def fit_once(self, *arguments, **options):
        return given["fit"](self, *arguments, **options | {"epochs": 1, "verbose": 0})

    monkeypatch.setattr(keras_sdd.data, "load", load_synthetic)
    monkeypatch.setattr(keras_sdd.models, "build", build_small)
    monkeypatch.setattr(keras_sdd.Distiller, "compile", compile_nothing)
    monkeypatch.setattr(keras_sdd.Distiller, "fit", fit_once)
    monkeypatch.setattr(keras_sdd.distribution, "initialize", keras_sdd.distribution.Devices)
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda **_: build_cnn(4))


# Keras warns of its own default.
@pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed:UserWarning")
@pytest.mark.parametrize("path", [p for p in PAGES if find_blocks(p)], ids=lambda p: p.name)
def test_code_of_pages_runs(path, small_things, monkeypatch, tmp_path):
    names = make_names()
    for i, (comment, said, code) in enumerate(find_blocks(path)):
        compiled = compile(code, f"{path.name}: {code[:80]}", "exec")
        if comment == "not run" or ("from_torch" in code and BACKEND != "torch"):
            continue
        (tmp_path / str(i)).mkdir()  # a folder, and a pair of networks, for each block
        monkeypatch.chdir(tmp_path / str(i))
        for file, write in WRITERS.items():
            if f'"{file}"' in code:
                write(file)
        names |= {x: build_cnn(4) for x in ("teacher", "student") if x in code}
        exec(said if comment == "run first" else "", names)
        exec(compiled, names)


@alike
def test_few_blocks_are_not_run():
    blocks = [block for path in PAGES for block in find_blocks(path)]
    assert len(blocks) > 20
    assert sum(comment == "not run" for comment, _, _ in blocks) <= 3


def list_public_names():
    """Names of all that is public, as `keras_sdd.losses.KD`."""
    modules = [x for x in keras_sdd.__all__ if inspect.ismodule(getattr(keras_sdd, x))]
    names = [f"keras_sdd.{x}" for x in keras_sdd.__all__ if x not in modules]
    for part in modules:
        module = getattr(keras_sdd, part)
        defined = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) or inspect.isfunction(value)
            if value.__module__ == module.__name__ and not name.startswith("_")
        ]
        names += [f"{module.__name__}.{name}" for name in getattr(module, "__all__", defined)]
    return names


@alike
def test_every_public_name_is_on_a_page_of_the_api():
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^::: (\S+)$", pages, re.M)
    missing = sorted(set(list_public_names()) - set(documented))
    assert missing == [], "add a line `::: NAME` of each in docs/api"
    assert len(set(documented)) == len(documented)
    for name in documented:
        value = sys.modules["keras_sdd"]
        for part in name.split(".")[1:]:
            value = getattr(value, part)


def make_anchor(heading):
    words = re.sub(r"[^\w\- ]", "", heading.lower())
    return re.sub(r"\s", "-", words.strip())


def leave_code_out(text):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)


@alike
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_links_lead_somewhere(path):
    text = leave_code_out(path.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in map(make_anchor, headings), link


@alike
def test_percent_cells():
    text = '"""About."""\n# %% [markdown]\n# # Title\n#\n# Prose.\n\n# %%\nx = 1\n\ny = 2\n\n# %%\n'
    cells = percent_cells.split_cells(text)
    assert cells == [("markdown", "# Title\n\nProse."), ("code", "x = 1\n\ny = 2")]
    page = percent_cells.write_page("first", cells)
    assert page.startswith("# Title\n\n[Python file](first.py)")
    assert page.endswith("Prose.\n\n```python\nx = 1\n\ny = 2\n```\n")
    markdown, code = json.loads(percent_cells.write_notebook(cells))["cells"]
    assert "".join(markdown["source"]) == "# Title\n\nProse."
    assert "".join(code["source"]) == "x = 1\n\ny = 2" and code["outputs"] == []
