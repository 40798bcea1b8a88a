"""The page of --mode=serve in headless Chromium, over an index that is made up."""

import contextlib
import math
import threading
from pathlib import Path

import pytest
from browsing import ask, chromium, needs_browser, one, texts, until, webm
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from vmr_jax.modes import serve
from vmr_jax.retrieval import corpus, web
from vmr_jax.retrieval.index import Found
from vmr_jax.retrieval.video_folder import VideoFolder

pytestmark = needs_browser

DURATIONS = {"kitchen": 20.0, "garden <b>": 80.0, "attic": 4000.0}
MOMENTS = [
    Found("kitchen", 4.0, 6.0, 0.75),
    Found("garden <b>", 20.0, 60.0, 0.5),
    Found("kitchen", 15.0, 20.0, -0.25),
    Found("attic", 3605.4, 4000.0, -0.5),
]


def search(sentences, k, video):
    """The same moments for every sentence; some sentences say what should happen."""

    def answer(sentence):
        if sentence == "nothing":
            return []
        return [moment for moment in MOMENTS if video in (None, moment.video)][:k]

    if "break" in sentences:
        raise RuntimeError("as asked for")
    return [answer(sentence) for sentence in sentences]


# --- the browser ------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path | None):
    service = web.Service(
        corpus.RunCorpus("fvmr on <i>nothing</i>, 3 videos", search, DURATIONS, VideoFolder(folder))
    )
    with serve.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = serve.make_server(service, ["127.0.0.1"])
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "kitchen.webm").write_bytes(webm(20))
    (folder / "attic.webm").write_bytes(b"no film")
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(browser, address):
    browser.get(address)
    return browser


def test_ranked_moments_as_text(page):
    ask(page, "a <b>person</b> opens the door")
    assert texts(page, ".rank") == ["1", "2", "3", "4"]
    assert texts(page, ".name") == ["kitchen", "garden <b>", "kitchen", "attic"]
    assert texts(page, ".clock") == ["0:04 – 0:06", "0:20 – 1:00", "0:15 – 0:20", "1:00:05 – 1:06:40"]
    assert texts(page, ".seconds")[1] == "20.0 – 60.0 s"
    assert texts(page, ".length") == ["0:20", "1:20", "0:20", "1:06:40"]
    assert texts(page, ".score") == ["0.7500", "0.5000", "−0.2500", "−0.5000"]
    assert texts(page, ".also") == ["also rank 3", "also rank 1"]
    assert one(page, "#status").text.startswith("4 moments in 3 videos, ")
    assert one(page, "header p").text == "fvmr on <i>nothing</i>, 3 videos"
    assert not page.find_elements(By.CSS_SELECTOR, "b, i")  # neither query, nor id, nor title became markup
    label = page.find_elements(By.CSS_SELECTOR, ".moment")[1].get_attribute("aria-label")
    assert label == "Moment 2: video garden <b>, 20.0 to 60.0 of 80.0 seconds, score 0.5000"
    # Nothing was refused by the page's own policy; of the file that is no film there is no picture.
    logged = [line["message"] for line in page.get_log("browser")]
    assert [line for line in logged if "/thumbnail/attic?" not in line] == []


def test_bars_are_where_the_moments_are(page):
    ask(page, "a person opens the door")
    places = page.execute_script(
        """return [...document.querySelectorAll('.track')].map((track) => {
          const whole = track.getBoundingClientRect();
          return [...track.querySelectorAll('.bar, .other')].map((bar) => {
            const box = bar.getBoundingClientRect();
            return [bar.className, 100 * (box.left - whole.left) / whole.width, 100 * box.width / whole.width];
          });
        });"""
    )
    # 4..6 and 15..20 of 20 s; 20..60 of 80 s; 3605.4..4000 of 4000 s: start and length in per cent.
    kitchen = [("bar", 20, 10), ("bar", 75, 25)]
    expected = [
        [("other", *kitchen[1][1:]), kitchen[0]],
        [("bar", 25, 50)],
        [("other", *kitchen[0][1:]), kitchen[1]],
        [("bar", 90.135, 9.865)],
    ]
    for found, wanted in zip(places, expected, strict=True):
        assert [name for name, *_ in found] == [name for name, *_ in wanted]
        for (_, left, width), (_, start, length) in zip(found, wanted):
            assert (left, width) == (pytest.approx(start, abs=0.05), pytest.approx(length, abs=0.05))


def test_moments_of_one_video_are_marked_together(page):
    ask(page, "a person opens the door")
    page.execute_script("document.querySelector('.moment').focus()")
    assert [li.get_attribute("class") for li in page.find_elements(By.CSS_SELECTOR, "li")] == [
        "related", "", "related", "",
    ]  # fmt: skip


def test_number_of_moments_and_one_video(page):
    one(page, "#k").clear()
    one(page, "#k").send_keys("1")
    ask(page, "a person opens the door")
    assert texts(page, ".name") == ["kitchen"]
    one(page, "#video").send_keys("garden <b>")
    ask(page, "a person opens the door")
    assert texts(page, ".name") == ["garden <b>"] and texts(page, ".score") == ["0.5000"]


def test_suggestions_follow_what_is_typed(page):
    def options():
        script = "return [...document.querySelectorAll('#ids option')].map((option) => option.value)"
        return page.execute_script(script)

    one(page, "#video").click()
    until(page, lambda: options() == ["attic", "garden <b>", "kitchen"])
    one(page, "#video").send_keys("GAR")
    until(page, lambda: options() == ["garden <b>"])


@pytest.mark.parametrize(
    "sentence,k,video,message",
    [
        (" ", "10", "", "Type a sentence first."),
        ("a person", "51", "", "must be a whole number from 1 to 50"),
        ("a person", "", "", "must be a whole number from 1 to 50"),
        ("a person", "10", "<b>", 'There is no video "<b>"'),
        ("break", "10", "", "The server failed here"),
    ],
)
def test_errors_are_told(page, sentence, k, video, message):
    ask(page, "a person")
    one(page, "#k").clear()
    one(page, "#k").send_keys(k)
    one(page, "#video").send_keys(video)
    ask(page, sentence)
    failure = one(page, "#failure")
    assert failure.is_displayed() and message in failure.text
    assert texts(page, ".moment") == []  # the answer to another question does not stay


def test_no_moment_and_no_server(browser, tmp_path):
    with served(None) as url:
        browser.get(url)
        assert "Type a sentence and press Enter" in one(browser, "#status").text
        ask(browser, "nothing")
        assert one(browser, "#status").text == "No moment was found."
        assert not one(browser, "#heads").is_displayed()
    ask(browser, "a person")
    assert "The server cannot be reached." in one(browser, "#failure").text


def test_a_search_that_takes_long_says_so(page):
    page.execute_script("window.fetch = () => new Promise(() => {})")
    one(page, "#query").send_keys("a person" + Keys.ENTER)
    until(page, lambda: one(page, "#status").text == "Searching …")
    assert one(page, "#moments").get_attribute("aria-busy") == "true"


def test_a_moment_plays_from_its_start_to_its_end(page):
    ask(page, "a person opens the door")
    page.execute_script("document.querySelector('.moment').focus()")
    page.execute_script(
        """window.times = [];
        new MutationObserver((changes, observer) => {
          const video = document.querySelector('video');
          if (!video) return;
          observer.disconnect();
          video.addEventListener('playing', () => times.push(['playing', video.currentTime]));
          video.addEventListener('timeupdate', () => times.push(['time', video.currentTime]));
        }).observe(document.body, {childList: true, subtree: true});"""
    )
    page.switch_to.active_element.send_keys(Keys.ENTER)  # opens without a mouse
    until(page, lambda: page.execute_script("return times.some(([what]) => what === 'playing')"))
    state = "const v = document.querySelector('video'); return [v.paused, v.currentTime, v.duration]"
    until(page, lambda: page.execute_script(state)[0])
    paused, time, duration = page.execute_script(state)
    assert duration == 20.0  # of the film
    times = page.execute_script("return times")
    assert min(found for _, found in times) >= 4.0 and times[0][1] < 6.0
    assert time == pytest.approx(6.0, abs=0.01)
    assert max(found for _, found in times) < 10.0  # a busy machine may look late; the film has 20 s
    head = one(page, ".head").get_attribute("style")
    assert "left: 30%" in head  # 6 of 20 s
    assert one(page, ".moment").get_attribute("aria-expanded") == "true"

    page.execute_script("times = []")
    one(page, ".again").click()
    until(page, lambda: page.execute_script("return times.some(([, time]) => time >= 4 && time < 6)"))
    # Who goes on to 12 s sees the rest of the film.
    page.execute_script(
        "document.querySelector('.again').click(); document.querySelector('video').currentTime = 12"
    )
    until(page, lambda: page.execute_script("return times.some(([, time]) => time > 12.3)"))
    one(page, ".moment").click()
    assert not page.find_elements(By.CSS_SELECTOR, "video, .head")
    assert one(page, ".moment").get_attribute("aria-expanded") == "false"


def test_what_cannot_be_played_says_so(page):
    ask(page, "a person opens the door")
    buttons = page.find_elements(By.CSS_SELECTOR, ".moment")
    buttons[1].click()
    assert "There is no file of this video here" in one(page, "#player-2").text
    assert "garden <b>.mp4" in one(page, "#player-2").text
    buttons[3].click()
    until(page, lambda: "This browser cannot play" in one(page, "#player-4").text)
    assert not one(page, "#player-2").is_displayed()  # one at a time


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(page, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    ask(page, "a person opens the door")
    sizes = "const e = document.documentElement; return [innerWidth, e.scrollWidth - e.clientWidth]"
    assert page.execute_script(sizes) == [width, 0]  # nothing is to be scrolled sideways
    for selector in ("h1", "label", "#status", ".action", ".rank", ".name", ".also", ".seconds", ".score"):
        assert contrast(page, selector) >= 4.5, selector  # WCAG 2.2, 1.4.3
    unlabelled = "return [...document.querySelectorAll('input')].filter((i) => !i.labels.length).length"
    assert page.execute_script(unlabelled) == 0


def contrast(browser, selector: str) -> float:
    """Contrast of a text with what is behind it, as WCAG 2.2 defines it."""
    colours = browser.execute_script(
        """const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        let node = document.querySelector(arguments[0]);
        const ink = numbers(getComputedStyle(node).color);
        let ground = [0, 0, 0, 0];
        for (; node && ground[3] === 0; node = node.parentElement) {
          ground = numbers(getComputedStyle(node).backgroundColor);
        }
        return [ink, ground];""",
        selector,
    )

    def luminance(colour):
        parts = [c / 255 for c in colour[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return math.fsum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))

    dark, light = sorted(luminance(colour) for colour in colours)
    return (light + 0.05) / (dark + 0.05)
