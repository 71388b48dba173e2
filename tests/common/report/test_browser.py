# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: the divider moves, keys work, nothing is fetched, names are text.

Needs Chromium and the extra ``browser``, so this runs only with ``pytest -m browser``.
"""

import shutil

import pytest
from made_reports import HOSTILE, inference, training

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "no Chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a report; gives the page, and lists of what it fetched and of its errors."""

    def open_page(path):
        page, fetched, errors = chromium.new_page(), [], []
        page.on("request", lambda request: fetched.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri())
        page.wait_for_function("document.body.dataset.drawn")
        return page, fetched, errors

    return open_page


def settled(page, **wanted):
    """Waits until the pictures show a state."""
    page.wait_for_function(
        "wanted => { const d = JSON.parse(document.body.dataset.drawn);"
        " return Object.keys(wanted).every(key => Math.abs(d[key] - wanted[key]) < 1e-6); }",
        arg=wanted,
    )


def drag(page, start, end):
    """Drags across the first canvas, between places given as shares of its width."""
    canvas = page.locator("#planes canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + start * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()


def grey(page, x, y=0.5, number=0):
    """Grey level of a canvas at a place given as shares of its width and height."""
    return page.evaluate(
        "([x, y, n]) => { const c = document.querySelectorAll('#planes canvas')[n];"
        " return c.getContext('2d').getImageData(Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data[0]; }",
        [x, y, number],
    )


def test_the_divider_moves_between_input_and_result(tmp_path, visit):
    page, fetched, errors = visit(training(tmp_path))
    assert page.locator("#planes canvas").count() == 6
    page.select_option("#left", label="truth")
    page.select_option("#right", label="spline")
    settled(page, left=2, right=0, divider=0.5)
    spots = [x / 40 for x in range(12, 19)]
    left = [grey(page, x) for x in spots]
    assert max(left) > 60
    slider = page.locator("#divider")
    slider.fill("0")
    settled(page, divider=0)
    right = [grey(page, x) for x in spots]
    assert [abs(2 * r - t) <= 2 for r, t in zip(right, left, strict=True)] == [True] * len(spots)  # half as bright
    drag(page, 0.1, 0.75)
    assert page.evaluate("state.divider") == pytest.approx(0.75, abs=0.01)
    settled(page, divider=page.evaluate("state.divider"))
    assert [grey(page, x) for x in spots] == left
    assert fetched == [page.url] and not errors


def test_the_difference_shows_what_is_brighter_and_an_uncertainty_can_stand_there(tmp_path, visit):
    page, _, errors = visit(inference(tmp_path))
    colours = "() => { const c = document.querySelectorAll('#planes canvas')[3]; const d = c.getContext('2d')"
    colours += ".getImageData(0, 0, c.width, c.height).data; let s = [0, 0]; for (let i = 0; i < d.length; i += 4)"
    colours += " { s[0] += d[i]; s[1] += d[i + 2]; } return s; }"
    red, blue = page.evaluate(colours)
    assert red > 4 * blue > 0  # the result is brighter than the input: orange
    page.locator("#viewer").focus()
    page.keyboard.press("b")
    settled(page, left=1, right=0)
    red, blue = page.evaluate(colours)
    assert blue > 4 * red
    page.select_option("#below", label="uncertainty")
    settled(page, below=2)
    assert min(page.evaluate(colours)) > 0
    page.select_option("#right", label="uncertainty")
    page.select_option("#below", label="difference")
    settled(page, below=-1, right=2)
    assert page.evaluate(colours) == [0, 0]  # there is none between two scales
    assert not errors


def test_keys_move_divider_slice_zoom_and_case(tmp_path, visit):
    page, _, errors = visit(training(tmp_path))
    page.locator("#viewer").focus()
    before = page.locator("#planes .c").first.inner_text()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "+", "n"):
        page.keyboard.press(key)
    settled(page, at=1, divider=0.4, zoom=2)
    page.keyboard.press("p")
    page.keyboard.press("ArrowDown")
    settled(page, at=0, depth=3)
    assert page.locator("#planes .c").first.inner_text() != before
    drag(page, 0.8, 0.7)
    assert page.evaluate("state.x") > 0.5 and page.evaluate("state.divider") == pytest.approx(0.4)
    page.keyboard.press("-")
    settled(page, zoom=1, x=0.5)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the focused list of cases has its own arrow keys
    settled(page, at=1)
    assert not errors


def test_names_are_text(tmp_path, visit):
    page, fetched, errors = visit(inference(tmp_path))
    page.wait_for_timeout(200)
    assert "owned" not in page.title()
    assert HOSTILE in page.locator("#planes .b").first.text_content()
    assert page.locator("section th", has_text=HOSTILE).count() == 1
    assert fetched == [page.url] and not errors
