"""What the page is made of, without a browser."""

import re
from itertools import product

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from rung.report.html import environment
from rung.web import COLOURS
from rung.web.page import PAGE, STATIC, page_routes

HEX = re.compile(r"--(\w+): #([0-9a-f]{6});")
PATHS = [route.path for route in page_routes()]


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=page_routes()))


def palettes(css):
    """The colours of light and of dark, by name."""
    blocks = [dict(HEX.findall(block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]
    return blocks[:2]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_file_of_the_page_has_a_path():
    assert PATHS == ["/", *(f"/static/{name}" for name in sorted(path.name for path in STATIC.iterdir()))]
    assert len(PATHS) == 10


@pytest.mark.parametrize("path", PATHS)
def test_a_file_comes_with_the_headers_that_let_nothing_else_run(client, path):
    response = client.get(path)
    policy = response.headers["Content-Security-Policy"]
    assert response.status_code == 200
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "require-trusted-types-for 'script'" in policy and "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_there_is_no_other_way_to_a_file(client):
    for path in ("/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static/page.py", "/page.html"):
        assert client.get(path).status_code == 404


def test_the_page_names_no_other_host_and_holds_neither_script_nor_style():
    for path in (PAGE, *STATIC.glob("*.css"), *STATIC.glob("*.js")):
        assert re.search(r"(https?:)?//[a-z0-9]+\.", path.read_text()) is None, path
    page = PAGE.read_text()
    assert re.search(r"<style|style=|\son\w+=|<script[^>]*>[^<]", page) is None


def test_the_colours_are_those_of_the_report():
    colours = COLOURS.read_text()
    assert len(palettes(colours)) == 2 and len(palettes(colours)[0]) == 8
    assert colours in environment().get_template("report.css").render()
    assert not any(HEX.search(path.read_text()) for path in STATIC.glob("*.css") if path != COLOURS)


def test_every_text_colour_can_be_read_on_every_ground():
    for palette in palettes(COLOURS.read_text()):
        for text, ground in product(("ink", "muted", "accent", "bad", "warn"), ("page", "wash")):
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
