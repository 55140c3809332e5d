"""The program that inspects a teacher, on a smoke form."""

import csv

import inspect_teacher
import numpy as np
import pytest
from backends import BACKEND
from matplotlib.image import imread
from training import command_line, data_sets

from configs import cifar100
from keras_sdd import data, models

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")


@pytest.fixture
def config():
    config = cifar100.get_config("resnet56,resnet20,sd_kd", smoke=True)
    with config.unlocked():
        config.num_examples = 16
    return config


def test_files(config, tmp_path, monkeypatch):
    splits, load = [], data.load
    monkeypatch.setattr(
        data, "load", lambda *args, **kw: splits.append(args[1]) or load(*args, **kw)
    )
    shape = data_sets.load_images(config, inspect_teacher.SPLITS[0]).element_spec[0].shape[1:]
    student = models.build(config.student, config.num_classes, shape)
    student.save(tmp_path / "student.keras")
    found = inspect_teacher.inspect_teacher(
        config, None, tmp_path / "student.keras", [1, 2], inspect_teacher.SPLITS[0]
    )
    assert "test" not in splits and found.num_images == 16
    inspect_teacher.write_csv(tmp_path / "cells.csv", found.rows())
    with open(tmp_path / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(x["network"], x["scale"]) for x in rows] == [
        (name, m) for name in ("teacher", "student") for m in "12"
    ]
    assert rows[0]["divergence"] == rows[0]["cell_agreement"] == ""
    assert float(rows[3]["divergence"]) == found.student[2].divergence
    inspect_teacher.draw(found, tmp_path / "cells.png")
    image = imread(tmp_path / "cells.png")
    assert image.shape[0] > 500 and np.ptp(image[..., :3]) > 0.9


def test_mistakes(config):
    def run(*args):
        inspect_teacher.inspect_teacher(*args, inspect_teacher.SPLITS[0])

    with pytest.raises(command_line.SetupError, match="scales=.*'x'"):
        run(config, None, None, [1, "x"])
    with pytest.raises(command_line.SetupError, match="no such file.*'none.keras'"):
        run(config, "none.keras", None, [1])
    with pytest.raises(command_line.SetupError, match="as --checkpoint"):
        run(cifar100.get_config("resnet20", smoke=True), None, None, [1])
