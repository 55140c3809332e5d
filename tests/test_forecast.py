"""Forecasts: correlations and regrets from pairs of which all is known."""

import forecast
import keras
import numpy as np
import pytest
from scipy import stats

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def make_rows(count=12):
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        row = {"study": "s", "pair": f"t,{i}", "seeds": 5.0}
        for kind in ("test", "validation"):
            row |= {f"{kind}_gain A": 0.1 * i, f"{kind}_gain B": float(random.normal())}
        rows.append(row | {"teacher entropy 4": float(np.exp(i)), "teacher accuracy 4": 0.5})
        rows[-1]["student divergence 2"] = float(random.normal())
    return rows


def test_correlations_are_spearmans():
    rows = make_rows()
    found = {name: (rho, p) for name, rho, p in forecast.correlate(rows, "test_gain A")}
    assert list(found) == ["teacher entropy 4", "student divergence 2"]  # the other is constant
    assert found["teacher entropy 4"][0] == pytest.approx(1.0)
    assert found["teacher entropy 4"][1] < 1e-3
    noise = [row["student divergence 2"] for row in rows]
    expected = stats.spearmanr(noise, range(12))
    assert found["student divergence 2"][0] == pytest.approx(expected.statistic)
    assert found["student divergence 2"][1] == pytest.approx(expected.pvalue, abs=0.02)


def test_regrets():
    def make(test, validation):
        gains = {"test": test, "validation": validation}
        return {f"{kind}_gain {arm}": x for kind, y in gains.items() for arm, x in y.items()}

    rows = [
        make({"A": 1.0, "B": 3.0}, {"A": 2.0, "B": 1.0}),
        make({"A": -1.0, "B": -2.0}, {"A": -1.0, "B": -1.0}),
    ]
    assert forecast.measure_regrets(rows) == {
        "kd": [3.0, 0.0],
        "A": [2.0, 1.0],
        "B": [0.0, 2.0],
        "best on validation images": [2.0, 0.0],
    }


def test_report_of_a_file(tmp_path):
    rows = make_rows()
    forecast.write_rows(tmp_path / "pairs.csv", rows)
    again = forecast.read_rows(tmp_path / "pairs.csv")
    assert again[3]["pair"] == "t,3" and again[3]["test_gain A"] == pytest.approx(0.3)
    text = forecast.report(again)
    assert "| t,11 " in text and "+1.10" in text and "of 2 numbers, 12 pairs" in text
