"""Curves drawn without a plotting library."""

import numpy as np
from svdp.evaluation.curves import LINES, draw_curves


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour, np.uint8)).all(axis=2).sum())


def test_both_curves_are_drawn_and_gaps_left_open():
    time = np.linspace(0, 6, 50)
    series = {"driver yaw": np.sin(time).tolist(), "result yaw": np.cos(time).tolist()}
    whole = draw_curves(series, ["yaw"])
    assert whole.dtype == np.uint8 and whole.shape[2] == 3
    broken = draw_curves({**series, "result yaw": [*np.cos(time)[:10], *[float("nan")] * 40]}, ["yaw"])
    driver, result = LINES["driver"], LINES["result"]
    assert count(whole, driver) > 200 and count(whole, result) > 200
    assert count(broken, result) < 0.5 * count(whole, result)


def test_panels_for_all_measures_and_series_that_are_missing_or_constant():
    one, all_of_them = draw_curves({"driver yaw": [1.0] * 5}, ["yaw"]), draw_curves({})
    assert all_of_them.shape[0] > 4 * one.shape[0]
    assert count(one, LINES["driver"]) > 200
