"""La géométrie des figures d'une page de modèle."""

import re

import pytest
import torch

from gpt_architecture.evaluation.calibration import Bin, Calibration
from gpt_architecture.reports.figures import (
    ATTENTION_LEVELS,
    Line,
    attention_paths,
    attention_profile,
    line_chart,
    reliability_chart,
)


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


class TestProfile:
    def test_pure_heads(self):
        size = 6
        first = torch.zeros(size, size)
        first[:, 0] = 1.0
        assert attention_profile(first) == (1.0, 0.0, 0.0)
        assert attention_profile(torch.eye(size)) == (0.0, 0.0, 1.0)
        previous = torch.diag(torch.ones(size - 1), -1)
        assert attention_profile(previous.expand(2, 3, size, size)) == (0.0, 1.0, 0.0)

    def test_too_short(self):
        assert attention_profile(torch.ones(2, 2)) == (0.0, 0.0, 0.0)
