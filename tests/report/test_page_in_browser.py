"""What Chromium makes of the report: tables, figures, entries of trials."""

import json
import time

import pytest

from squeeze_jax.report.page import draw
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
SR = "model.squeeze_ratio"


class ReportBrowser(Browser):
    """A browser with a report in it."""

    def show(self, workdir, fragment=""):
        """Opens a study's report and waits for its script."""
        self.open((workdir / "report.html").as_uri() + fragment)
        self.until("document.querySelectorAll('.tools').length === 2")

    def texts(self, selector, root="document"):
        """Returns what is shown of each element."""
        return self.evaluate(
            f"[...{root}.querySelectorAll({json.dumps(selector)})]"
            ".filter((e) => e.checkVisibility()).map((e) => e.textContent)"
        )

    def mouse(self, event, x, y):
        button = {} if event == "mouseMoved" else {"button": "left", "clickCount": 1}
        self("Input.dispatchMouseEvent", type=event, x=x, y=y, **button)

    def press(self, key):
        for event in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=event, key=key)

    def tip(self):
        """Returns the cells of the tooltip."""
        return self.texts("#tip td")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One for all the tests."""
    running = ReportBrowser(tmp_path_factory.mktemp("profile"))
    running("Emulation.setDeviceMetricsOverride", width=1280, height=900, **SCREEN)
    yield running
    running.close()


SCREEN = {"deviceScaleFactor": 1, "mobile": False}
TRIALS, POINTS = ("table[data-name=trials] tr", "table[data-name=points] tr")


def names(browser):
    return browser.texts("table[data-name=trials] td:first-child")


def sort(browser, table, column):
    browser.evaluate(
        f"document.querySelectorAll('table[data-name={table}] th button')[{column}].click()"
    )


def test_tables_sort_filter_and_hide(browser, sweep, troubled):
    workdir = sweep(troubled)
    draw(workdir)
    browser.show(workdir)
    headings = browser.texts("table[data-name=trials] th")
    top1 = headings.index("Top-1 (%)")
    sort(browser, "trials", top1)
    shown = browser.texts(f"table[data-name=trials] td:nth-child({top1 + 1})")
    # As numbers: 9 comes before 10. Trials without a result are last.
    assert shown == ["9.0", "10.0", "10.0", "10.0", "79.0", "81.0", "95.0", "–", "–"]
    sort(browser, "trials", top1)
    shown = browser.texts(f"table[data-name=trials] td:nth-child({top1 + 1})")
    assert shown == ["95.0", "81.0", "79.0", "10.0", "10.0", "10.0", "9.0", "–", "–"]
    sort(browser, "points", 1)
    assert browser.texts("table[data-name=points] td:nth-child(2)")[0].startswith("80.0")

    def put(selector, value, event):
        browser.evaluate(
            f"(() => {{ const e = [...document.querySelectorAll('{selector}')].at(-1); "
            f"e.value = '{value}'; e.dispatchEvent(new Event('{event}')); }})()"
        )

    put(".tools input[type=search]", "RATIO=0.5 script", "input")
    assert names(browser) == ["squeeze_ratio=0.5,seed=2"]  # by the reason of its failure
    assert browser.texts(".tools [role=status]") == ["3 of 3 rows", "1 of 9 rows"]
    put(".tools input[type=search]", "", "input")
    put(".tools select", "chance", "change")
    assert len(names(browser)) == 3
    put(".tools select", "", "change")
    browser.evaluate("document.querySelectorAll('.tools details')[1].open = true")
    browser.evaluate(
        f"document.querySelectorAll('.tools details')[1].querySelectorAll('input')[{top1}].click()"
    )
    assert "Top-1 (%)" not in browser.texts("table[data-name=trials] th")
    assert not browser.texts(f"table[data-name=trials] td:nth-child({top1 + 1})")
    assert not browser.complaints()


def test_points_show_their_values_and_lead_to_entries(browser, sweep, finished):
    workdir = sweep(finished)
    draw(workdir)
    browser.show(workdir)
    # Where the figure has drawn the means: filled circles of the first colour.
    means = browser.evaluate(
        """[...document.querySelectorAll("figure[data-name=sweep] use")]
        .filter((e) => /fill: color-mix[^;]*#0072b2/.test(e.getAttribute("style")))
        .filter((e) => !e.closest("[id*=legend]"))
        .filter((e) => !/opacity/.test(e.getAttribute("style") + e.parentNode.outerHTML))
        .map((e) => e.getBoundingClientRect()).filter((b) => b.height > 3)  // no cap of a bar
        .map((b) => [b.x + b.width / 2, b.y + b.height / 2])"""
    )
    means.sort()
    assert len(means) == 3
    browser.mouse("mouseMoved", *means[1])
    tip = browser.tip()
    assert tip[:2] == ["Squeeze ratio (SR)", "0.5"] and tip[3].startswith("95.0 ")
    assert dict(zip(tip[::2], tip[1::2], strict=True)) == {
        "Squeeze ratio (SR)": "0.5",
        "Top-1 (%)": tip[3],
        "Seeds": "3",
        "Size (MiB)": "2",
    }
    browser.mouse("mouseMoved", 5, 5)
    assert browser.tip() == []
    for event in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.mouse(event, *means[1])
    browser.until("!document.getElementById('entry').hidden")
    assert browser.texts("#entry h2") == ["squeeze_ratio=0.5,seed=0"]
    cells = browser.texts("#entry .wide td")
    assert cells == [SR, "0.5", "0.125", "seed", "0", "0"]
    assert browser.texts("#entry figcaption") == ["Training loss", "Held-out top-1 (%)"]
    links = browser.evaluate("[...document.querySelectorAll('#entry a')].map((e) => e.href)")
    assert (workdir / "trials/squeeze_ratio=0.5,seed=0/metrics.jsonl").exists()
    assert f"{workdir.as_uri()}/trials/squeeze_ratio%3D0.5%2Cseed%3D0/metrics.jsonl" in links
    assert not browser.texts("#entry .command")  # no weights were saved
    assert not browser.complaints()


def touch(browser, condition, seconds=3.0, times=10):
    """Touches the first point of the figure until the page says so."""
    for _ in range(times):
        x, y = browser.evaluate(
            """(() => {
            scrollTo(0, 0);
            const s = document.querySelector("figure[data-name=sweep] svg");
            const e = [...s.querySelectorAll("use")]
            .filter((e) => /fill: color-mix/.test(e.getAttribute("style")))
            .filter((e) => !e.closest("[id*=legend]"))
            .map((e) => e.getBoundingClientRect()).filter((b) => b.height > 3)
            .sort((a, b) => a.x - b.x)[0];
            return [e.x + e.width / 2, e.y + e.height / 2]; })()"""
        )
        browser("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        browser("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if browser.evaluate(condition):
                return
            time.sleep(0.02)
    raise AssertionError(condition)


def test_keys_touch_and_the_dark(browser, sweep, finished):
    workdir = sweep(finished)
    (workdir / "trials/squeeze_ratio=1.0,seed=2/checkpoints").mkdir()
    draw(workdir)
    browser.show(workdir)
    browser.evaluate("document.querySelector('figure[data-name=costs]').focus()")
    browser.press("Home")
    assert browser.tip()[1] == "0.125"
    browser.press("ArrowRight")
    assert browser.tip()[1] == "0.5"
    browser.press("Enter")
    browser.until("!document.getElementById('entry').hidden")
    assert browser.texts("#entry h2") == ["squeeze_ratio=0.5,seed=0"]
    browser.evaluate("history.back()")
    browser.until("document.getElementById('entry').hidden")
    # A first touch shows, a second one opens; a busy browser may take one for another gesture.
    touch(browser, "!document.getElementById('tip').hidden")
    assert browser.evaluate("document.getElementById('entry').hidden")
    touch(browser, "!document.getElementById('entry').hidden")
    paint = "getComputedStyle(document.querySelector('figure[data-name=sweep] svg')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    shades = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser("Emulation.setEmulatedMedia", features=features)
        shades.append((browser.evaluate(paint), browser.evaluate(ground)))
        plates = browser.evaluate(
            """[...document.querySelectorAll("figure[data-name=sweep] svg path")]
            .map((e) => getComputedStyle(e).fill)"""
        )
        assert shades[-1][1] in plates  # the figure's ground is the page's
    browser("Emulation.setEmulatedMedia", features=[])
    (light_text, light), (dark_text, dark) = shades
    assert sum(brightness(light)) > 700 > 200 > sum(brightness(dark))
    assert sum(brightness(light_text)) < 200 < 600 < sum(brightness(dark_text))
    # An address opens its trial, whose commands name its folder.
    browser.show(workdir, "#trial/squeeze_ratio%3D1.0%2Cseed%3D2")
    evaluate, export, predict = browser.texts("#entry .command code")
    folder = f"{workdir}/trials/squeeze_ratio=1.0,seed=2"
    assert evaluate == f"squeeze-jax evaluate {folder}"
    assert export == f"squeeze-jax export {folder} --format onnx -o net.onnx"
    assert predict == f"squeeze-jax predict {folder} photo.jpg"
    assert not browser.complaints()


def brightness(colour):
    return [int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def test_names_run_nothing(browser, sweep, finished):
    evil = "</script><img src=x onerror=pwned()>'\"&"
    workdir = sweep(
        finished, designs=tuple({"model.bypass": f"{i}{evil}"} for i in range(3)), label=evil
    )
    draw(workdir)
    browser.show(workdir, "#trial/" + "bypass%3D0%3C%2Fscript%3E%3Cimg%20src%3Dx")
    assert browser.evaluate("document.getElementById('entry').hidden")  # names no trial
    browser.evaluate("document.querySelector('table[data-name=trials] tbody a').click()")
    browser.until("!document.getElementById('entry').hidden")
    assert evil in browser.texts("#entry h2")[0]
    browser.evaluate("document.querySelector('figure[data-name=sweep]').focus()")
    browser.press("ArrowRight")
    assert evil in browser.tip()[1]
    assert browser.evaluate("document.images.length") == 0
    assert not browser.complaints()


def test_rows_come_as_they_are_scrolled_to(browser, sweep):
    designs = tuple({SR: 0.001 * (i + 1)} for i in range(450))
    workdir = sweep({}, designs=designs, seeds=1)
    draw(workdir)
    browser.show(workdir)
    count = "document.querySelector('table[data-name=trials] tbody').rows.length"
    assert browser.evaluate(count) == 200
    browser.evaluate("document.querySelector('table[data-name=trials] + button').scrollIntoView()")
    browser.until(f"{count} > 200")
    browser.evaluate("document.querySelector('table[data-name=trials] + button').click()")
    browser.until(f"{count} === 450")
    assert len(set(names(browser))) == 450
