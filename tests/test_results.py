"""Results of finished runs: rows, groups and the CSV file."""

import json

import keras
import pytest
from finished_runs import PAIR, make_config, make_row, write_run
from reports import results

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


# Rows.


def test_a_row_has_all_that_tells_runs_apart(tmp_path):
    config = make_config(f"{PAIR},sd_kd", 3, student="cifar100/resnet20", data_dir="elsewhere")
    config.terms.distillation_loss.scales = (1, 2)
    write_run(tmp_path / "a" / "new", config, protocol="validation", teacher="ab12", loss=0.5)
    write_run(tmp_path / "old", make_config("resnet8", smoke=True))
    (new, old), problems = results.read_rows(tmp_path)
    assert problems == []
    assert new == {
        "cell": f"fashion_mnist:{PAIR},sd_kd",
        "method": "sd_kd",
        "reading": "official",
        "protocol": "validation",
        "backend": "torch",
        "smoke": False,
        "seed": 3,
        "teacher": "ab12",
        "changes": "student=cifar100/resnet20, terms.distillation_loss.scales=[1,2]",
        "epochs": 30,
        "last_accuracy": 70.0,
        "last_top5_accuracy": 90.0,
        "best_accuracy": 71.0,
        "best_top5_accuracy": 91.0,
        "parameters": 78_042,
        "seconds": 61.5,
        "loss": 0.5,
        "path": str(tmp_path / "a" / "new"),
    }
    kept = {key: old[key] for key in ("protocol", "teacher", "smoke", "changes", "method")}
    assert kept == {
        "protocol": "authors",
        "teacher": "",
        "smoke": True,
        "changes": "",
        "method": "ce",
    }


def test_keys_of_another_version_are_changes():
    config = json.loads(make_config(f"{PAIR},kd").to_json())
    del config["augment"]
    config |= {"new_key": {"inner": None}, "validation_examples": 17, "protocol": "else"}
    described = "augment=(absent), new_key.inner=null"
    assert results.describe_changes(config, "authors") == described
    assert "validation_examples=17" in results.describe_changes(config, "validation")


@pytest.mark.parametrize("cell", ["mine:resnet8", "fashion_mnist:resnet9", "../x:resnet8", "mine"])
def test_of_unknown_cells_the_whole_config_is_named(cell):
    config = json.loads(make_config("resnet8", student="cifar100/x").to_json()) | {"cell": cell}
    changes = results.describe_changes(config)
    assert "student=cifar100/x" in changes and "epochs=30" in changes and "cell=" not in changes


GOOD = json.dumps(make_row(table="", epochs=8))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("result", GOOD[:-30], "cannot be read"),
        ("result", "", "cannot be read"),
        ("result", "[" * 100_000, "cannot be read"),
        ("result", "[1.0]", "holds a list"),
        ("result", "{}", "cell must be a text. Received: None"),
        ("result", GOOD.replace('"seed": 0', '"seed": "0"'), "seed must be a whole number"),
        ("result", GOOD.replace('"seed": 0', '"seed": true'), "seed must be a whole number"),
        ("result", GOOD.replace('"smoke": false', '"smoke": 0'), "smoke must be true or false"),
        ("result", GOOD.replace("85.0", "NaN"), "last_accuracy must be a percentage. Received: n"),
        ("result", GOOD.replace("85.25", '"85"'), "best_accuracy must be a percentage"),
        ("result", GOOD.replace("85.25", "1e3"), "best_accuracy must be a percentage"),
        ("result", GOOD.replace('"last_acc', '"lost_acc'), "last_accuracy must be a percentage"),
        ("config", "{", "cannot be read"),
        ("config", "3", "holds a int"),
        ("config", "{}", "not this run's, its cell is None"),
        ("config", None, "No such file"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(name, text, message, tmp_path):
    write_run(tmp_path / "bad", make_config(f"{PAIR},kd"))
    write_run(tmp_path / "good", make_config(f"{PAIR},kd", seed=1))
    path = tmp_path / "bad" / f"{name}.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    rows, (problem,) = results.read_rows(tmp_path)
    assert [row["seed"] for row in rows] == [1]
    assert problem.startswith(f"{path}: ") and message in problem


def test_a_config_of_another_run_is_named(tmp_path):
    write_run(tmp_path / "run", make_config(f"{PAIR},kd", seed=1), seed=2)
    rows, (problem,) = results.read_rows(tmp_path)
    assert not rows and "not this run's, its seed is 1, in result.json 2" in problem


# Groups.


def test_a_group_is_equal_in_everything_but_the_seed():
    rows = [make_row(seed=seed) for seed in (4, 0, 2)]
    others = {
        "cell": "fashion_mnist:vgg8,resnet8,kd",
        "reading": "paper",
        "protocol": "authors",
        "backend": "jax",
        "smoke": True,
        "teacher": "cd" * 32,
        "changes": "student=cifar100/resnet20",
    }
    rows += [make_row(**{key: value}) for key, value in others.items()]
    groups = results.group_rows(rows)
    assert [[row["seed"] for row in group] for group in groups.values()] == [[0, 2, 4]] + [[0]] * 7
    assert {key: getattr(list(groups)[1 + i], key) for i, key in enumerate(others)} == others


def test_a_seed_twice_counts_once(tmp_path):
    for name, accuracy in (("first", 70.0), ("second", 80.0)):
        write_run(tmp_path / name, make_config(f"{PAIR},kd"), (accuracy, 99.0, accuracy, 99.0))
    rows, problems = results.read_rows(tmp_path)
    assert [row["last_accuracy"] for row in rows] == [70.0]
    second, first = tmp_path / "second", tmp_path / "first"
    assert problems == [f"{second}: not counted, the seed and settings of {first}"]
    with pytest.raises(ValueError, match="a seed twice. Received: .*kd, seed 0: not counted"):
        results.group_rows([make_row(), make_row(accuracy=80.0)])


# The CSV file.


def test_csv_gives_the_same_rows(tmp_path):
    rows = [
        make_row(accuracy=0.1 + 0.2, path="/here", parameters=5, changes="a=[1,2], b=x, c=1"),
        make_row(seed=1, seconds=1e-7, nll=float("inf")),
    ]
    results.write_csv(tmp_path / "rows.csv", rows)
    read = results.read_csv(tmp_path / "rows.csv")
    assert read == [{key: x for key, x in row.items() if key != "path"} for row in rows]
    assert [type(read[0][key]) for key in ("parameters", "last_accuracy")] == [int, float]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",85.25", ",many"), "line 2: last_accuracy must be a number"),
        (lambda text: text.replace(",85.25", ",nan"), "line 2: last_accuracy must be a perc"),
        (lambda text: text.replace(",85.25", ""), "line 2: has not as many fields"),
        (lambda text: text.replace("False", "no"), "line 2: smoke must be true or false"),
        (lambda text: text.replace("reading", "leading", 1), "leading must be a number"),
        (lambda text: text + text.splitlines()[1], "not counted, the seed and settings of"),
    ],
)
def test_a_damaged_csv_is_refused(change, message, tmp_path):
    path = tmp_path / "rows.csv"
    results.write_csv(path, [make_row(accuracy=85.25, best_accuracy=86.0)])
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f"rows.csv.*{message}"):
        results.read_csv(path)
