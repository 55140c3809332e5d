"""The reports made of finished runs: on a table, and on comparisons of methods."""

import types

import keras
import numpy as np
import pytest
import report_table
from finished_runs import PAIR, make_config, make_row, write_run
from reports import comparisons, results, tables

from configs import cifar100, imagenet

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


# The report on a table.


def read_lines(table, rows):
    """The fields of the lines of a report."""
    lines = report_table.report_table(table, rows).splitlines()
    fields = [[field.strip() for field in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {row[0]: row[1:] for row in fields}


def test_report_gives_mean_and_sample_deviation(tmp_path):
    arg = "resnet34,resnet18,sd_kd"
    for seed, top1 in enumerate((70.0, 71.0, 75.0)):
        config = imagenet.get_config(arg)
        config.update(seed=seed, data_dir="somewhere")
        write_run(tmp_path / str(seed), config, (top1, 90.0, top1 + 1.0, 91.0))
    paper, changed = imagenet.get_config(arg, "paper"), imagenet.get_config(arg)
    changed.epochs = 7
    write_run(tmp_path / "paper", paper, (1.0, 1.0, 1.0, 1.0))
    write_run(tmp_path / "changed", changed, (1.0, 1.0, 1.0, 1.0))
    rows, problems = results.read_rows(tmp_path)
    text = report_table.report_table("3", rows, [*problems, "x/result.json: cut off"])
    lines = read_lines("3", rows)
    assert lines[arg] == [
        "71.44 / 90.05",
        "72.00 ± 2.65 / 90.00 ± 0.00",
        "73.00 ± 2.65 / 91.00 ± 0.00",
        "3",
    ]
    assert lines[f"{arg} (epochs=7)"] == ["71.44 / 90.05", "1.00 / 1.00", "1.00 / 1.00", "1"]
    assert "\nAll runs: backend=torch, protocol=authors\n" in text
    assert "Not run yet (7 of 8)" in text and f"imagenet.py:{arg}\n" not in text
    assert text.endswith("\n\nProblems:\nx/result.json: cut off")
    assert f"{arg} --config.reading=paper" not in report_table.report_table("3", rows, (), "paper")


def test_a_table_mixes_nothing():
    cell = f"{PAIR},kd"
    changes = {
        "protocol=authors": {"protocol": "authors"},
        "backend=jax": {"backend": "jax"},
        "smoke": {"smoke": True},
        "student=x, terms.a.scales=[1,2]": {"changes": "student=x, terms.a.scales=[1,2]"},
        "teacher=cdcdcdcd": {"teacher": "cd" * 32},
    }
    plain = {"backend": "backend=torch", "protocol": "protocol=validation"}
    for label, changed in changes.items():
        rows = [make_row(seed=0), make_row(seed=1, accuracy=86.0)]
        lines = read_lines("fashion_mnist", [*rows, make_row(accuracy=10.0, **changed)])
        (other,) = [x for x in lines if x.startswith(f"{cell} (") and label in x]
        assert lines[other] == ["-", "10.00", "10.25", "1"]
        usual = plain.get(next(iter(changed)), "")
        usual = "teacher=abababab" if "teacher" in changed else usual
        line = lines[f"{cell} ({usual})" if usual else cell]
        assert line == ["-", "85.50 ± 0.71", "85.75 ± 0.71", "2"]


def test_changed_runs_are_no_runs_of_the_cell():
    report = report_table.report_table("fashion_mnist", [make_row(changes="epochs=1")])
    assert f"{PAIR},kd (epochs=1)" in report and f"| {PAIR},kd  " in report
    assert f"fashion_mnist.py:{PAIR},kd\n" in report


@pytest.mark.parametrize("table", list("12345678"))
def test_every_cell_has_its_command(table):
    report, commands = report_table.report_table(table, []).split("Not run yet")
    cells = tables.list_cells(table)
    assert all(f"| {name.split(':')[-1]} " in report for name in cells)
    due = [name for name, cell in cells.items() if cell.figure != "-" and cell.config]
    assert f"({len(due)} of {len(due)})" in commands
    for command, name in zip(commands.splitlines()[1:], due, strict=True):
        file, arg = name.split(":")
        program = "distill" if "," in arg else "train_teacher"
        assert command == f"python examples/{program}.py --config=configs/{file}.py:{arg}"


def test_report_of_other_methods(tmp_path):
    arg = "resnet32x4,resnet8x4,sp"
    changed = cifar100.get_config(arg)
    changed.terms.sp_loss.weight = 1.0
    for name, config in (("run", cifar100.get_config(arg)), ("changed", changed)):
        write_run(tmp_path / name, config)
    rows, _ = results.read_rows(tmp_path)
    # A run counts in every table that has its experiment.
    for table in ("combinations", "sp_on_cells"):
        lines = read_lines(table, rows)
        assert lines[arg] == ["72.94", "70.00", "71.00", "1"]
        assert lines[f"{arg} (terms.sp_loss.weight=1.0)"] == lines[arg]
    lines = read_lines("2", rows)
    assert lines["resnet50,vgg8,wcord"] == ["74.86", "no code", "no code", "0"]
    assert lines["resnet50"] == ["79.34", "-", "-", "0"]
    report = report_table.report_table("2", rows)
    assert "reviewkd_weight: cifar100:resnet50,mobilenet_v2,reviewkd" in report
    lines = read_lines("published", rows)
    assert lines[f"cifar100:{arg}"] == ["72.94", "70.00", "71.00", "1", "RepDistiller"]
    assert lines["imagenet:resnet34,resnet18,wkd_l"] == ["72.49", "no code", "no code", "0", "WKD"]
    assert lines["cifar100:resnet8x4"] == ["72.50", "-", "-", "0", "RepDistiller"]


# The report on comparisons.


def compare(rows, *pairs, networks=None):
    groups = results.group_rows(rows)
    return comparisons.compare_all(groups, comparisons.parse_pairs(pairs), networks)


def make_runs(method, accuracies, **changes):
    return [make_row(method, seed, x, **changes) for seed, x in enumerate(accuracies)]


RUNS = [
    *make_runs("kd", (85.0, 85.5, 84.5, 85.0)),
    *make_runs("sd_kd", (86.0, 86.6, 85.4)),
    *make_runs("ce", (84.0, 85.5, 83.5)),
]


def test_comparisons_are_paired_and_corrected_together():
    (sd_kd, kd), problems = compare(RUNS, "sd_kd:kd", "kd:ce")
    assert sd_kd.networks == kd.networks == f"fashion_mnist:{PAIR}"
    np.testing.assert_allclose(list(sd_kd.differences.values()), [1.0, 1.1, 0.9])
    np.testing.assert_allclose(list(kd.differences.values()), [1.0, 0.0, 1.0])
    assert sd_kd.verdict.corrected_p == 2 * sd_kd.verdict.p and sd_kd.verdict.word == "better"
    assert kd.verdict.word == "undecided"
    assert problems == [
        f"fashion_mnist:{PAIR}, {name}: without a partner, seeds 3"
        for name in ("sd_kd : kd", "kd : ce")
    ]
    # mean 1, deviation 0.1: t = 10 sqrt(3), and the quantile of 2 degrees of freedom is 4.303
    text = report_table.report_comparisons([sd_kd, kd], problems)
    fields = next(line for line in text.splitlines() if "sd_kd : kd " in line).split("|")[1:-1]
    assert [field.strip() for field in fields] == [
        f"fashion_mnist:{PAIR}",
        "sd_kd : kd",
        "3",
        "+1.00",
        "+0.75 to +1.25",
        "0.0033",
        "0.0066",
        "better",
    ]
    assert "All runs: backend=torch, protocol=validation" in text
    assert text.endswith("\n".join(["Problems:", *problems]))


@pytest.mark.parametrize(
    "changed",
    [
        {"protocol": "authors"},
        {"backend": "jax"},
        {"smoke": True},
        {"reading": "paper"},
        {"teacher": "ab" * 31 + "cd"},
        {"changes": "student=cifar100/resnet20"},
        {"cell": "fashion_mnist:vgg8,resnet8,sd_kd"},
        {"cell": "ablations:6,wrn_16_2,resnet8,m1"},
    ],
)
def test_only_the_method_may_differ(changed):
    rows = make_runs("kd", (85.0, 85.5, 84.5)) + make_runs("sd_kd", (86.0, 86.6, 85.4), **changed)
    compared, problems = compare(rows, "sd_kd:kd")
    assert not compared
    assert any(x.startswith(f"fashion_mnist:{PAIR},kd: no runs of sd_kd under") for x in problems)
    assert "No runs can be compared." in report_table.report_comparisons(compared, problems)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, "better"),
        ({"changes": "epochs=9"}, None),
        ({"reading": "paper"}, None),
        ({"cell": "fashion_mnist:wrn_16_1"}, None),
        ({"cell": "cifar100:resnet8"}, None),
        ({"cell": "resnet8"}, None),
    ],
)
def test_labels_only_is_compared_with_every_teacher(changed, word):
    teachers = [make_runs("kd", (85.0, 85.5, 84.5), teacher=x * 32) for x in ("ab", "cd")]
    rows = [*teachers[0], *teachers[1], *make_runs("ce", (84.0, 84.4, 83.6), **changed)]
    compared, problems = compare(rows, "kd:ce")
    assert [x.verdict.word for x in compared] == ([word] * 2 if word else [])
    assert len(problems) == (0 if word else 2)


def test_settings_of_terms_are_the_methods_own():
    changes = "terms.distillation_loss.scales=[1,2]"
    rows = [*RUNS, *make_runs("sd_kd", (85.5, 86.0, 85.4), changes=changes)]
    compared, _ = compare(rows, "sd_kd:kd")
    assert [x.methods for x in compared] == ["sd_kd : kd", f"sd_kd ({changes}) : kd"]


def test_conditions_that_differ_are_named():
    changed = {"changes": "epochs=9", "teacher": "cd" * 32}
    rows = [row | changed for row in RUNS if row["method"] != "ce"]
    compared, _ = compare([*RUNS, *rows], "sd_kd:kd")
    assert comparisons.label_networks(compared) == [
        f"fashion_mnist:{PAIR} (teacher=abababab)",
        f"fashion_mnist:{PAIR} (teacher=cdcdcdcd, epochs=9)",
    ]
    assert not compare(RUNS, "sd_kd:kd", networks={"fashion_mnist:vgg8,resnet8"})[0]


def test_runs_without_a_common_seed_are_named():
    rows = [make_row("kd", 0), make_row("sd_kd", 1)]
    compared, problems = compare(rows, "sd_kd:kd")
    assert not compared and problems == [f"fashion_mnist:{PAIR}, sd_kd : kd: no seed in common"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["sd_kd:kdd"], LookupError, "Unknown method. Near: .*kd.*Received: 'kdd'"),
        (["sd_kd+spp:sd_kd"], LookupError, "Unknown method. Near: sp.*Received: 'spp'"),
        (["sd_kd"], ValueError, "two methods each.*Received: 'sd_kd'"),
        (["kd:kd"], ValueError, "two methods each.*Received: 'kd:kd'"),
        (["kd:sd_kd", "sd_kd:kd"], ValueError, "different pairs.*Received: 'kd:sd_kd,sd_kd:kd'"),
    ],
)
def test_wrong_pairs_are_refused(words, error, message):
    with pytest.raises(error, match=message):
        comparisons.parse_pairs(words)


def make_report(**changes):
    values = {"table": "2", "runs": None, "results": None, "reading": "official"}
    values |= {"compare": ["sd_kd:kd"], "figure": None}
    return report_table.make_report(types.SimpleNamespace(**values | changes))


def test_report_from_csv_with_a_figure(tmp_path):
    results.write_csv(tmp_path / "rows.csv", RUNS)
    text = make_report(results=tmp_path / "rows.csv", figure=tmp_path / "figure.png")
    assert f"| fashion_mnist:{PAIR} | sd_kd : kd | 3 " in text
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    # Of folders, only the pairs of the table are compared.
    write_run(tmp_path / "a", make_config(f"{PAIR},kd"))
    write_run(tmp_path / "b", make_config(f"{PAIR},sd_kd"))
    assert f"{PAIR} | sd_kd : kd | 1 " in make_report(runs=tmp_path, table="fashion_mnist")
    assert "No runs can be compared." in make_report(runs=tmp_path)
    assert "| 85.00 ± 0.41 " in make_report(
        results=tmp_path / "rows.csv", compare=[], table="fashion_mnist"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"figure": "x.png", "compare": []}, "pass --compare too. Received: --figure=x.png"),
        ({"runs": "a", "results": "b"}, "--runs or --results, not both"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_report(**changes)
