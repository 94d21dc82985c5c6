"""La géométrie des figures : graduations rondes, points dans le cadre, étiquettes séparées."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.evaluation.reliability import Bin, Calibration
from gpt_architecture.reports.charts import (
    ATTENTION_LEVELS,
    Cloud,
    Line,
    attention_paths,
    line_chart,
    reliability_chart,
    scatter,
    ticks,
)


def cloud(label, x, y):
    return Cloud(label=label, points=((x, y),), mean=(x, y))


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        ([0.0, 1.0], 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([-8.2, -0.3], 4, [-10.0, -8.0, -6.0, -4.0, -2.0, 0.0]),
        ([0.312, 0.338], 3, [0.31, 0.32, 0.33, 0.34]),
        ([3.0], 3, [3.0, 4.0]),
        ([0.0, 0.0], 3, [0.0, 0.5]),
    ],
)
def test_ticks_by_hand(values, count, expected):
    assert ticks(values, count) == pytest.approx(expected)


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.integers(2, 8),
)
def test_ticks_enclose_the_values(values, count):
    found = ticks(values, count)
    assert 2 <= len(found) <= count + 3
    step = found[1] - found[0]  # à un milliardième de graduation près
    assert found[0] <= min(values) + 1e-9 * step
    assert found[-1] >= max(values) - 1e-9 * step


def test_up_is_more_and_right_is_more():
    chart = scatter([cloud("a", -3, 0.2), cloud("b", -1, 0.9)], width=600, height=400)
    low, high = chart.marks
    assert low.x < high.x
    assert low.y > high.y  # l'origine d'un SVG est en haut
    for mark in chart.marks:
        assert chart.left <= mark.x <= chart.right
        assert chart.top <= mark.y <= chart.bottom


def test_labels_of_neighbours_do_not_collide():
    clouds = [cloud(f"variante {n}", -1 - n / 100, 0.5 + n / 200) for n in range(5)]
    chart = scatter([*clouds, cloud("loin", -9, 0.1)], width=860, height=430)
    boxes = []
    for mark in chart.marks:
        width = 6.0 * len(mark.label)
        left = mark.label_x - {"start": 0, "middle": width / 2, "end": width}[mark.anchor]
        boxes.append((left, left + width, mark.label_y))
    for index, (left, right, y) in enumerate(boxes):
        for other_left, other_right, other_y in boxes[index + 1 :]:
            assert right <= other_left or other_right <= left or abs(y - other_y) >= 12


def test_single_point_has_no_dots_but_several_do():
    several = Cloud(label="b", points=((0, 0), (1, 1)), mean=(0.5, 0.5))
    one, two = scatter([cloud("a", 0, 0), several], width=300, height=300).marks
    assert one.points == ()
    assert len(two.points) == 2


class TestLines:
    def chart(self, *lines, **options):
        return line_chart(lines, width=600, height=300, x_label=str, **options)

    def test_points_are_inside_and_in_proportion(self):
        line = Line(label="perte", series=0, points=[(0, 10.0), (50, 6.0), (100, 2.0)])
        chart = self.chart(line)
        (stroke,) = chart.strokes
        for x, y in stroke.points:
            assert chart.left <= x <= chart.right
            assert chart.top <= y <= chart.bottom
        (x0, y0), (x1, y1), (x2, y2) = stroke.points
        assert x1 == pytest.approx((x0 + x2) / 2)
        assert y1 == pytest.approx((y0 + y2) / 2)
        assert y0 < y2  # une perte plus haute est plus haut
        assert stroke.path.count("L") == 2

    def test_given_ticks_are_kept(self):
        line = Line(label="part", series=0, points=[(0, 0.5), (1, 0.0)])
        chart = self.chart(line, x_values=[0, 1], y_values=[0.0, 1.0])
        assert [tick.label for tick in chart.x_ticks] == ["0", "1"]
        assert chart.strokes[0].points[1] == (chart.right, chart.bottom)

    def test_one_point_and_none(self):
        chart = self.chart(
            Line(label="un", series=0, points=[(0, 1.0)]), Line(label="rien", series=1, points=[])
        )
        assert chart.strokes[1].path == ""
        assert len(chart.strokes[0].points) == 1
        assert self.chart(Line(label="un", series=0, points=[(0, 1.0)]), x_values=[0]).x_ticks


def test_reliability_columns():
    calibration = Calibration(
        bins=(
            Bin(low=0.0, high=0.5, count=4, confidence=0.25, accuracy=0.5),
            Bin(low=0.5, high=1.0, count=0, confidence=0.0, accuracy=0.0),
        ),
        tokens=4,
        nll=1.0,
    )
    chart = reliability_chart(calibration)
    (column,) = chart.columns
    middle = (chart.top + chart.bottom) / 2
    assert column.y == pytest.approx(middle)
    assert column.y + column.height == pytest.approx(chart.bottom)
    assert column.mark_x == pytest.approx(chart.left + (chart.right - chart.left) / 4)
    assert "4 tokens" in column.text


def cells(path):
    """Les cases (ligne, colonne) d'un tracé."""
    found = set()
    for start, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path):
        found |= {(int(row), int(start) + shift) for shift in range(int(width))}
    return found


def test_each_attention_cell_is_drawn_once_at_its_level():
    weights = torch.rand(9, 9, generator=torch.Generator().manual_seed(1)).tril()
    paths = attention_paths(weights)
    drawn = [cell for path in paths for cell in cells(path)]
    assert len(drawn) == len(set(drawn))
    for level, path in enumerate(paths):
        upper = (*ATTENTION_LEVELS[1:], 2.0)[level]
        expected = {
            (i, j)
            for i in range(9)
            for j in range(9)
            if ATTENTION_LEVELS[level] <= float(weights[i, j]) < upper
        }
        assert cells(path) == expected
