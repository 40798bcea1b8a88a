"""Headless Chromium for the tests of the page, and a film that it plays."""

import contextlib
import io
import os
import shutil
import struct

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as DriverService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed; the page needs a browser"
)
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


# --- a film ------------------------------------------------------------------------------------------


def webm(seconds: int, rate: int = 10) -> bytes:
    """A WebM film in VP8, every frame a key frame: those are what a lossy WebP picture holds (RFC 9649)."""

    def element(name: str, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return bytes.fromhex(name) + struct.pack(">Q", len(content) | 1 << 56) + content

    def number(name: str, value: int) -> bytes:
        return element(name, struct.pack(">Q", value))

    def cluster(second: int) -> bytes:
        blocks = [
            element("A3", b"\x81", struct.pack(">h", 1000 * i // rate), b"\x80", frame(second + i / rate))
            for i in range(rate)
        ]
        return element("1F43B675", number("E7", 1000 * second), *blocks)

    def cues(first: int, sizes: list[int]) -> bytes:
        points = [
            element(
                "BB",
                number("B3", 1000 * i),
                element("B7", number("F7", 1), number("F1", first + sum(sizes[:i]))),
            )
            for i in range(seconds)
        ]
        return element("1C53BB6B", *points)

    def frame(time: float) -> bytes:
        picture, file = Image.new("RGB", (64, 48), (int(12 * time) % 256, 90, 160)), io.BytesIO()
        picture.save(file, "WEBP", quality=50)
        chunk = file.getvalue()[12:]  # after 'RIFF', size, 'WEBP'
        assert chunk[:4] == b"VP8 "
        return chunk[8 : 8 + struct.unpack("<I", chunk[4:8])[0]]

    head = element("1A45DFA3", number("4286", 1), number("42F7", 1), number("42F2", 4), number("42F3", 8),
                   element("4282", b"webm"), number("4287", 2), number("4285", 2))  # fmt: skip
    length = element("4489", struct.pack(">d", 1000.0 * seconds))
    names = element("4D80", b"test") + element("5741", b"test")
    info = element("1549A966", number("2AD7B1", 1_000_000), length, names)
    track = element("AE", number("D7", 1), number("73C5", 1), number("83", 1), element("86", b"V_VP8"),
                    element("E0", number("B0", 64), number("BA", 48)))  # fmt: skip
    front = info + element("1654AE6B", track)
    clusters = [cluster(second) for second in range(seconds)]
    sizes = [len(part) for part in clusters]
    first = len(front) + len(cues(0, sizes))  # numbers have 8 bytes each, whatever they are
    return head + element("18538067", front, cues(first, sizes), *clusters)


# --- the browser --------------------------------------------------------------------------------


@contextlib.contextmanager
def chromium(profile):
    """A browser with an empty profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    os.environ.setdefault("SE_AVOID_STATS", "true")
    driver = webdriver.Chrome(options=options, service=DriverService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def until(browser, condition):
    return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector):
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def ask(browser, sentence):
    """Types and waits for the answer to this sentence, which is no earlier one's."""
    browser.execute_script("document.getElementById('status').textContent = 'before'")
    one(browser, "#query").clear()
    one(browser, "#query").send_keys(sentence + Keys.ENTER)
    until(browser, lambda: one(browser, "#status").text not in ("before", "Searching …"))
