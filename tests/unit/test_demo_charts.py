"""The report's charts draw what they are given."""

import xml.etree.ElementTree as ET

from demo import charts


def shapes(svg: str, tag: str) -> list[ET.Element]:
    """Elements of one kind."""
    return list(ET.fromstring(svg).iter(tag))


def test_bars_are_proportional() -> None:
    """A bin with twice the count is twice as high."""
    svg = charts.bars([0, 1, 2], [2, 4], "s")
    heights = [float(each.attrib["height"]) for each in shapes(svg, "rect")]
    assert heights[1] == 2 * heights[0]


def test_lines_and_marks_stay_inside_the_frame() -> None:
    """Every point lies between the axes."""
    svg = charts.lines([("a", [(0, 1), (10, 5)])], "s", [(5, 3)])
    (mark,) = shapes(svg, "circle")
    assert charts.LEFT <= float(mark.attrib["cx"]) <= charts.WIDTH
    assert 0 <= float(mark.attrib["cy"]) <= charts.HEIGHT


def test_nothing_is_said_to_be_nothing() -> None:
    """Without data there is a text instead of an empty chart."""
    assert "nothing to show" in charts.bars([], [], "s")
    assert "nothing to show" in charts.lines([], "s")


def test_names_are_escaped() -> None:
    """A field name cannot break the page."""
    ET.fromstring(charts.lines([("<&>", [(0, 1), (1, 2)])], "a<b"))
