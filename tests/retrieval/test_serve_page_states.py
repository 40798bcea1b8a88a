"""The page of --mode=serve in headless Chromium: its states, links, keys, filters, export and uploads."""

import json
import urllib.parse
from pathlib import Path

import pytest
from browsing import ask, chromium, needs_browser, one, texts, until
from filmed import film
from selenium.webdriver.common.keys import Keys
from serving import served

from vmr_jax.errors import UserError
from vmr_jax.retrieval import corpus, web
from vmr_jax.retrieval.hits import Hit, ServedVideo
from vmr_jax.retrieval.video_folder import VideoFolder

pytestmark = needs_browser

DAY = 86_400
VIDEOS = {
    "kitchen": ServedVideo("kitchen", "The kitchen", 20.0, 1_700_000_000.0),  # 14 November 2023
    "garden": ServedVideo("garden", "The garden", 80.0, 1_700_000_000.0 + 100 * DAY),  # 22 February 2024
}
HITS = [Hit("kitchen", 4.0, 6.0, 0.75), Hit("garden", 20.0, 60.0, 0.5), Hit("kitchen", 15.0, 20.0, -0.25)]
SURE = {"sure": (0.8, 0.6, 0.3), "doubtful": (0.3, 0.2, 0.1)}


def search(sentences, k, video):
    """The same moments for every sentence, with the confidence that its first word asks for."""
    found = []
    for sentence in sentences:
        sure = SURE.get(sentence.split()[0], (None,) * 3)
        wanted = VIDEOS if video is None else {video} if isinstance(video, str) else video
        hits = [hit._replace(confidence=c) for hit, c in zip(HITS, sure) if hit.video in wanted]
        found.append([] if sentence == "nothing" else hits[:k])
    return found


class Films(corpus.RunCorpus):
    """A corpus with titles, dates and a threshold, which takes videos; none of them is ever shown."""

    threshold = 0.5

    def __init__(self, folder: Path, videos=VIDEOS):
        super().__init__("films", search, {}, VideoFolder(folder))
        self._videos, self.uploads = videos, folder / "uploads"

    def add(self, path):
        if "broken" in path.name:
            raise UserError("It cannot be read: it is cut short.")
        return path.stem

    def remove(self, video):
        raise AssertionError


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / "kitchen.mp4", seconds=20.0)
    return Films(folder)


@pytest.fixture(scope="module")
def address(films):
    with served(web.Service(films, films)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(browser, address):
    browser.get(address)
    until(browser, lambda: one(browser, "#upload").is_displayed())  # it knows what the server does
    return browser


def parameters(page):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(page.current_url).query))


def expanded(page):
    rows = "return [...document.querySelectorAll('.moment')].map((row) => row.getAttribute('aria-expanded'))"
    return [state == "true" for state in page.execute_script(rows)]


# --- what is shown -------------------------------------------------------------------------------------


def test_confidence_takes_the_place_of_the_score(page):
    ask(page, "sure of it")
    assert texts(page, ".score") == ["80%", "60%", "30%"] and texts(page, ".gap") == [
        "0.7500",
        "0.5000",
        "−0.2500",
    ]
    label = one(page, ".moment").get_attribute("aria-label")
    assert label == "Moment 1: video The kitchen, 4.0 to 6.0 of 20.0 seconds, 80% sure"
    assert not one(page, "#doubt").is_displayed() and head(page) == "confidence"
    ask(page, "doubtful of it")
    assert one(page, "#doubt").text.startswith("No confident match") and len(texts(page, ".moment")) == 3
    ask(page, "another")  # whose scores are not calibrated
    assert not one(page, "#doubt").is_displayed()
    assert texts(page, ".gap") == ["leads by 0.2500", "leads by 0.7500"] and head(page) == "score"


def head(page):
    """The word above the numbers, where the page is wide."""
    return one(page, "#points").get_attribute("textContent")


def test_a_video_without_a_file_says_what_to_do(page):
    ask(page, "a person")
    page.execute_script("document.querySelectorAll('.moment')[1].click()")
    assert one(page, ".absent").text.endswith("a folder that holds garden.mp4 or .webm.")


def test_each_moment_has_the_picture_of_its_middle(page):
    ask(page, "a person")
    sizes = """return [...document.querySelectorAll('.picture img')].map(
        (image) => [image.naturalWidth, image.getAttribute('src')])"""
    until(page, lambda: all(width for width, _ in page.execute_script(sizes)))
    assert page.execute_script(sizes) == [[64, "thumbnail/kitchen?t=5.0"], [64, "thumbnail/kitchen?t=17.5"]]


def test_a_library_without_videos_says_what_to_do(browser, tmp_path):
    empty = Films(tmp_path, {})
    for editable, told in ((None, "vmr_jax --mode=ingest"), (empty, "Drop some video files on this page.")):
        with served(web.Service(empty, editable)) as port:
            browser.get(f"http://127.0.0.1:{port}/")
            until(browser, lambda: "There is no video yet." in one(browser, "#status").text)
            assert told in one(browser, "#status").text
            assert one(browser, "#upload").is_displayed() == (editable is not None)
    (tmp_path / "first.mp4").write_bytes(b"x")
    with served(web.Service(empty, empty)) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        until(browser, lambda: "There is no video yet." in one(browser, "#status").text)
        empty.title = "films, 1 video"
        one(browser, "#files").send_keys(str(tmp_path / "first.mp4"))
        until(browser, lambda: one(browser, "#title").text == "films, 1 video")
        until(browser, lambda: one(browser, "#status").text.startswith("Type a sentence"))


def test_a_search_that_takes_long_shows_where_answers_come(page):
    page.execute_script("window.fetch = () => new Promise(() => {})")
    one(page, "#query").send_keys("a person" + Keys.ENTER)
    until(page, lambda: one(page, "#loading").is_displayed())


# --- the address ---------------------------------------------------------------------------------------


def test_the_address_holds_what_was_asked(page, address):
    page.execute_script("document.getElementById('length').value = '60-600'")
    ask(page, "a person & a door")
    assert parameters(page) == {"q": "a person & a door", "length": "60-600"}
    assert texts(page, ".name") == ["The garden"]
    ask(page, "nothing")
    assert one(page, "#status").text == "No moment was found in the videos that are left."
    page.back()
    until(page, lambda: texts(page, ".name") == ["The garden"])
    assert one(page, "#query").get_attribute("value") == "a person & a door"
    page.get(address)
    assert parameters(page) == {} and texts(page, ".moment") == []


def test_a_link_leads_to_a_moment(page, address):
    ask(page, "a person")
    page.execute_script("document.querySelectorAll('.moment')[2].click()")
    shared = {"q": "a person", "hit_video": "kitchen", "hit_start": "15.00", "hit_end": "20.00"}
    assert parameters(page) == shared
    link = page.current_url
    page.execute_script("document.querySelectorAll('.moment')[2].click()")
    assert parameters(page) == {"q": "a person"}
    page.get(link)
    until(page, lambda: expanded(page) == [False, False, True])
    until(page, lambda: page.execute_script("return document.querySelector('video').currentTime >= 15"))


def test_a_link_to_a_moment_that_is_not_among_the_answers(page, address):
    page.get(address + "?q=a+person&hit_video=kitchen&hit_start=9&hit_end=11")
    until(page, lambda: expanded(page) == [True, False, False, False])
    assert texts(page, ".clock")[0] == "0:09 – 0:11" and texts(page, ".gap")[0] == "of the link"
    page.get(address + "?hit_video=nowhere&hit_start=9&hit_end=11")
    until(page, lambda: "The moment of the link cannot be shown." in one(page, "#failure").text)
    assert "Not answered" not in one(page, "#failure").text  # nothing was asked


# --- keys and filters ----------------------------------------------------------------------------------


def test_keys_go_through_the_moments(page):
    ask(page, "a person")
    page.execute_script("document.querySelector('.moment').focus()")

    def press(key):
        page.switch_to.active_element.send_keys(key)
        focused = "return [...document.querySelectorAll('.moment')].indexOf(document.activeElement)"
        return page.execute_script(focused), expanded(page)

    assert press(Keys.ARROW_DOWN) == (1, [False] * 3)
    assert press(Keys.ARROW_UP) == (0, [False] * 3) and press(Keys.ARROW_UP) == (0, [False] * 3)
    assert press(Keys.ENTER) == (0, [True, False, False])
    assert press("n") == (1, [False, True, False]) and press("n") == (2, [False, False, True])
    assert press("n") == (2, [False, False, True])  # there is no other
    assert press("p") == (1, [False, True, False])
    one(page, "#query").send_keys("np")  # who types is not disturbed
    assert expanded(page) == [False, True, False] and one(page, "#query").get_attribute("value") == "a personnp"
    page.find_elements("css selector", ".controls button")[1].click()
    assert expanded(page) == [False, False, True]


@pytest.mark.parametrize(
    "field,value,names",
    [
        ("length", "-60", ["The kitchen"] * 2),
        ("from", "2024-01-01", ["The garden"]),
        ("to", "2024-01-01", ["The kitchen"] * 2),
        ("to", "2023-01-01", []),
    ],
)
def test_filters(page, field, value, names):
    page.execute_script(f"document.getElementById('{field}').value = '{value}'")
    ask(page, "a person")
    assert texts(page, ".name") == names and parameters(page)[field] == value


# --- export and uploads --------------------------------------------------------------------------------


def test_chosen_moments_are_exported(page):
    page.execute_script(
        """window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
        window.texts = []; const made = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.text().then((text) => texts.push(text)); return made(blob); };"""
    )
    ask(page, "a person")
    boxes = page.find_elements("css selector", ".choice input")

    def choose(i):  # the bar below may lie over a box, and then the page would be scrolled first
        page.execute_script("arguments[0].click()", boxes[i])

    assert not one(page, "#chosen").is_displayed()
    choose(2)
    choose(0)
    assert one(page, "#count").text == "2 moments chosen" and one(page, "#exactly").is_displayed()
    page.execute_script("document.getElementById('format').value = 'json'")
    one(page, "#export").click()
    until(page, lambda: one(page, "#exported").text == "Saved.")
    until(page, lambda: page.execute_script("return texts.length"))
    assert page.execute_script("return saved") == ["a_person.json"]
    found = json.loads(page.execute_script("return texts[0]"))
    assert found["query"] == "a person" and [m["rank"] for m in found["moments"]] == [1, 3]
    choose(2)
    choose(1)  # of the garden, which has no file
    page.execute_script("document.getElementById('format').value = 'mp4'")
    one(page, "#export").click()
    until(page, lambda: 'no file of the video "garden"' in one(page, "#exported").text)
    one(page, "#none").click()
    assert not one(page, "#chosen").is_displayed() and not any(box.is_selected() for box in boxes)


def test_files_are_taken_one_after_the_other(page, tmp_path, films):
    for name in ("new film.mp4", "broken.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    files = "\n".join(str(tmp_path / name) for name in ("new film.mp4", "broken.mp4", "notes.txt"))
    one(page, "#files").send_keys(files)
    until(page, lambda: len(texts(page, "#uploads .failed")) == 2)
    assert texts(page, "#uploads .name") == ["new film.mp4", "broken.mp4", "notes.txt"]
    done, broken, other = texts(page, "#uploads .state")
    assert done == "can be searched, as new film" and broken == "It cannot be read: it is cut short."
    assert other.startswith("Give the file a name that ends with one of .mp4")
    assert [path.name for path in films.uploads.iterdir()] == ["new film.mp4"]
