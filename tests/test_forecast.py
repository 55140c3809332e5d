"""Forecasts: correlations, lines and regrets from pairs of which all is known."""

import forecast
import keras
import numpy as np
import pytest
from reports import forecasts
from scipy import stats

from keras_sdd.inspection import CellStatistics, Inspection

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def make_rows(count=12):
    """Gains of A follow the teacher's entropy in three studies, gains of B follow nothing."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        row = {"study": f"study {i % 3}", "pair": f"t,{i}", "seeds": 5.0}
        for kind in ("test", "validation"):
            row |= {f"{kind}_gain A": 0.1 * i - 0.3, f"{kind}_gain B": float(random.normal())}
        row |= {"teacher entropy 4": 2.0 * i, "teacher accuracy 4": 0.5}
        row |= {f"teacher accuracy {m}": float(random.uniform()) for m in (1, 2)}
        rows.append(row | {"student divergence 2": float(random.normal())})
    return rows


def test_correlations_are_spearmans():
    rows = make_rows()
    found = dict(forecasts.correlate(rows, "test_gain A"))
    assert "teacher accuracy 4" not in found  # it is constant
    assert next(iter(found)) == "teacher entropy 4"
    assert found["teacher entropy 4"] == pytest.approx(1.0)
    noise, gains = ([row[x] for row in rows] for x in ("student divergence 2", "test_gain A"))
    expected = stats.spearmanr(noise, gains)
    assert found["student divergence 2"] == pytest.approx(expected.statistic)
    assert forecasts.find_p(noise, gains) == pytest.approx(expected.pvalue, abs=0.02)
    assert forecasts.find_p(gains, gains) < 1e-3


def test_p_holds_for_ties_and_constants():
    assert forecasts.correlate_ranks([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0
    assert forecasts.find_p([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 1.0
    ranks = forecasts.correlate_ranks([1, 1, 2, 3], [5, 6, 6, 9])
    assert ranks == pytest.approx(stats.spearmanr([1, 1, 2, 3], [5, 6, 6, 9]).statistic)


def test_line_is_found_from_validation_gains():
    rows = make_rows()
    rows[7]["validation_gain A"] = rows[7]["validation_gain A"] + 0.04  # same rank, another gain
    for row in rows:
        row["test_gain A"] = -99.0
    found = forecasts.fit(rows, "A")
    assert found.number == "teacher entropy 4"
    assert found.predict({"teacher entropy 4": 10.0}) == pytest.approx(0.2)


def test_left_out_pairs_are_not_known():
    rows = make_rows()
    expected = [row["test_gain A"] for row in rows]
    for key in ("pair", "study"):
        assert forecasts.predict_left_out(rows, "A", key) == pytest.approx(expected)
    odd = [dict(row) for row in rows]
    for row in odd[::3]:  # one study lies: its own forecasts stay
        row["validation_gain A"] = -row["validation_gain A"]
    assert forecasts.predict_left_out(odd, "A", "study")[::3] == pytest.approx(expected[::3])
    with pytest.raises(ValueError, match="Received: 3 in all, 0 without study"):
        forecasts.predict_left_out(rows[::3][:3], "A", "study")


def test_forecasts_of_noise_do_not_look_good():
    """What is chosen among many numbers fits well; on left out pairs it must not."""
    random = np.random.default_rng(1)
    fitted, honest = [], []
    for _ in range(20):
        rows = make_rows()
        for row in rows:
            row |= {f"teacher n{i}": float(random.normal()) for i in range(25)}
            noise = float(random.normal())
            row |= {"test_gain B": noise, "validation_gain B": noise}
        fitted.append(abs(forecasts.correlate(rows, "test_gain B", ("teacher",))[0][1]))
        honest.append(forecasts.summarize(rows)["B"]["pair"][0])
    assert np.mean(fitted) > 0.5 > 0.2 > np.mean(honest)


def test_regrets():
    rows = make_rows()
    for i, row in enumerate(rows):
        row |= {"test_gain B": 0.25, "validation_gain B": 0.1}
        row["teacher accuracy 1"] = 0.5 + i / 100
    found = forecasts.measure_regrets(rows)
    best = [max(0.25, row["test_gain A"]) for row in rows]
    assert found["kd"] == pytest.approx(best)
    assert found["B"] == pytest.approx([x - 0.25 for x in best])
    # A from 0.1 on, where it is 0.15 less than B on test images
    chosen = [0.25 if row["test_gain A"] <= 0.1 else row["test_gain A"] for row in rows]
    assert found["best on validation images"] == pytest.approx(np.subtract(best, chosen))
    assert found["forecast without the pair"] == pytest.approx(np.subtract(best, chosen))


def test_report_of_a_file(tmp_path):
    rows = make_rows()
    forecasts.write_rows(tmp_path / "pairs.csv", rows)
    again = forecasts.read_rows(tmp_path / "pairs.csv")
    assert again[3]["pair"] == "t,3" and again[3]["test_gain A"] == pytest.approx(0.0)
    text = forecast.report(again)
    assert "| t,11 " in text and "+0.80" in text and "of 4 numbers, 12 pairs" in text
    assert "forecast without its data" in text
    forecast.draw_gains(again, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").stat().st_size > 1000
    (tmp_path / "none.csv").write_text("study,pair\n")
    with pytest.raises(ValueError, match="none.csv without any"):
        forecasts.read_rows(tmp_path / "none.csv")
    (tmp_path / "cut.csv").write_text("study,pair,seeds\ns,p,\n")
    with pytest.raises(ValueError, match="cut.csv is damaged"):
        forecasts.read_rows(tmp_path / "cut.csv")


def inspect(scales):
    values = dict.fromkeys(
        ("complementary_label", "complementary_global", "calibration_error"), 0.1
    )
    values |= dict.fromkeys(("accuracy", "vote_accuracy", "mean_accuracy", "cell_agreement"), 0.9)
    values |= {"negative_log_likelihood": 1.0, "entropy": 16.0}
    cells = {m: CellStatistics("teacher", m, m * m, **values) for m in scales}
    return Inspection(10, cells, {})


def test_forecast_of_a_teacher():
    rows = make_rows()
    for row in rows:
        row |= {"test_gain B": -abs(row["test_gain B"]), "validation_gain B": -1.0}
    trust = forecasts.summarize(rows)
    text = forecasts.describe(rows, trust, inspect((1, 2, 4)))
    line = next(x for x in text.splitlines() if x.startswith("| A "))
    assert "+0.50" in line and "teacher entropy 4" in line and "+1.00" in line
    assert "may be chance" in text  # of B
    assert "By the forecast: A." in text
    for row in rows:
        row["test_gain B"] = 9.0 + row["test_gain A"]
    text = forecasts.describe(rows, trust, inspect((1, 2, 4)))
    assert "B for all of them 0.00. So take that, whatever is forecast." in text
    assert "--scales=1,2,4" in forecasts.describe(rows, trust, inspect((1, 2)))
