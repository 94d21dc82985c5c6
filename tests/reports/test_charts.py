"""La géométrie des figures : graduations rondes, points dans le cadre, étiquettes séparées."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.reports.charts import Cloud, scatter, ticks


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
    assert found[0] <= min(values) + 1e-9 * abs(min(values))
    assert found[-1] >= max(values) - 1e-9 * abs(max(values))


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
