"""Chosen moments as files, read back by independent programs."""

import csv
import fractions
import io
import json
import re
import urllib.parse

import pytest
from filmed import film

from vmr_jax.errors import UserError
from vmr_jax.retrieval import edit_lists
from vmr_jax.retrieval.export import FORMATS, Chosen, export, file_name

otio = pytest.importorskip("opentimelineio", reason="lists of cuts are read back with OpenTimelineIO")
QUERY = "a person <opens> the door & leaves"


@pytest.fixture(scope="module")
def moments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name in ("talk.mp4", "walk 2.mp4"):
        film(folder / name, seconds=6.0, fps=25)
    talk = ("talk", "The talk", folder / "talk.mp4", 6.0)
    walk = ("walk 2", "A walk", folder / "walk 2.mp4", 6.0)
    return [
        Chosen(*talk, 1.0, 2.5, 0.75, 0.9, 1, QUERY),
        Chosen(*walk, 0.52, 4.0, -0.25, None, 2, QUERY),
        Chosen(*talk, 4.04, 5.0, None, None, None, QUERY),
    ]


def test_csv(moments, tmp_path):
    (path,) = export(moments, "csv", tmp_path / "moments.csv")
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode())))
    assert rows[0] == ["rank", "video", "title", "start", "end", "length", "score", "confidence", "query"]
    assert rows[1] == ["1", "talk", "The talk", "1.0", "2.5", "1.5", "0.75", "0.9", QUERY]
    assert rows[2] == ["2", "walk 2", "A walk", "0.52", "4.0", "3.48", "-0.25", "", QUERY]
    assert rows[3] == ["", "talk", "The talk", "4.04", "5.0", "0.96", "", "", QUERY]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1+2",
        "@SUM(A1)",
        "\t=1",
        " =1",
        "\r=1",
        "\n=cmd|'/c calc'!A1",
        "＝1",
        '=HYPERLINK("a";"b")',
    ],
)
def test_no_cell_is_one_that_a_spreadsheet_runs(moments, tmp_path, text):
    odd = moments[0]._replace(video=text, title=text, query=text)
    (path,) = export([odd], "csv", tmp_path / "moments.csv")
    content = path.read_bytes().decode()
    (_, row) = csv.reader(io.StringIO(content))
    for cell in (row[1], row[2], row[8]):
        assert cell[0] in "'\\" and "\n" not in cell and "\r" not in cell and "\t" not in cell


def test_json(moments, tmp_path):
    (path,) = export(moments, "json", tmp_path / "moments.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["query"] == QUERY and len(found["moments"]) == 3
    assert found["moments"][1] == {
        "rank": 2, "video": "walk 2", "title": "A walk", "start": 0.52, "end": 4.0, "length": 3.48,
        "score": -0.25, "confidence": None, "query": QUERY,
    }  # fmt: skip
    other = moments[0]._replace(query="another")
    (path,) = export([other, moments[1]], "json", tmp_path / "moments.json")
    assert json.loads(path.read_text(encoding="utf-8"))["query"] is None


def test_subtitles_are_a_file_for_each_video(moments, tmp_path):
    files = export(moments, "srt", tmp_path / "srt")
    assert [path.name for path in files] == ["talk.srt", "walk 2.srt"]  # as a player looks for them
    assert files[0].read_text(encoding="utf-8") == (
        f"1\n00:00:01,000 --> 00:00:02,500\n{QUERY}\n\n2\n00:00:04,040 --> 00:00:05,000\n{QUERY}\n"
    )
    (path,) = export(moments[1:2], "vtt", tmp_path / "one.vtt")
    escaped = "a person &lt;opens&gt; the door &amp; leaves"
    assert path.read_text(encoding="utf-8") == f"WEBVTT\n\n00:00:00.520 --> 00:00:04.000\n{escaped}\n"


def test_a_sentence_cannot_end_its_cue(moments, tmp_path):
    evil = moments[0]._replace(query="a\n\n2\n00:00:00,000 --> 00:00:09,000\nother")
    for kind in ("srt", "vtt"):
        (path,) = export([evil], kind, tmp_path / f"moments.{kind}")
        assert len(re.findall("-->", path.read_text(encoding="utf-8"))) == 1
    late = moments[0]._replace(start=3661.25, end=3722.0, query="")
    (path,) = export([late], "srt", tmp_path / "late.srt")
    assert path.read_text(encoding="utf-8") == "1\n01:01:01,250 --> 01:02:02,000\nMoment 1\n"


def cuts_of(timeline, rate):
    """(name of the clip, first frame, number of frames) of the only track."""
    (track,) = timeline.tracks
    return [
        (clip.name, clip.source_range.start_time.rescaled_to(rate).value, clip.source_range.duration.value)
        for clip in track
        if isinstance(clip, otio.schema.Clip)
    ]


# 25 frames a second: 1.0 s is frame 25, 2.5 s frame 62 (62.5 to even), 0.52 s frame 13, 4.04 s frame 101.
FRAMES = [(25, 37), (13, 87), (101, 24)]


def test_an_edl_is_read_by_opentimelineio(moments, tmp_path):
    if "cmx_3600" not in otio.adapters.available_adapter_names():
        pytest.skip("otio-cmx3600-adapter is not installed")
    (path,) = export(moments, "edl", tmp_path / "moments.edl")
    timeline = otio.adapters.read_from_file(str(path), rate=25)
    assert timeline.name == QUERY
    names = ["talk.mp4", "walk 2.mp4", "talk.mp4"]
    assert cuts_of(timeline, 25) == [(name, *frames) for name, frames in zip(names, FRAMES)]


def test_an_edl_line_by_line(moments, tmp_path):
    (path,) = export(moments[:2], "edl", tmp_path / "moments.edl")
    assert path.read_text(encoding="utf-8").splitlines() == [
        f"TITLE: {QUERY}",
        "FCM: NON-DROP FRAME",
        "",
        # 37 frames are 1 s and 12 frames, 37 + 87 are 4 s and 24 frames
        "001  AX       V     C        00:00:01:00 00:00:02:12 00:00:00:00 00:00:01:12",
        "* FROM CLIP NAME: talk.mp4",
        f"* COMMENT: {QUERY}",
        "",
        "002  AX       V     C        00:00:00:13 00:00:04:00 00:00:01:12 00:00:04:24",
        "* FROM CLIP NAME: walk 2.mp4",
        f"* COMMENT: {QUERY}",
    ]


def project_of(found):
    """The timeline of the only project of the only event of a library."""
    while not isinstance(found, otio.schema.Timeline):
        (found,) = found
    return found


def test_fcpxml_is_read_by_opentimelineio(moments, tmp_path):
    (path,) = export(moments, "fcpxml", tmp_path / "moments.fcpxml")
    timeline = project_of(otio.adapters.read_from_file(str(path)))
    names = ["The talk 1.0-2.5 s", "A walk 0.5-4.0 s", "The talk 4.0-5.0 s"]
    assert cuts_of(timeline, 25) == [(name, *frames) for name, frames in zip(names, FRAMES)]
    media = [clip.media_reference.target_url for clip in timeline.find_clips()]
    assert media == [moment.file.as_uri() for moment in moments]


def test_a_list_for_others_names_no_place(moments, tmp_path):
    for kind in ("edl", "fcpxml"):
        (path,) = export(moments, kind, tmp_path / f"moments.{kind}", places=False)
        text = path.read_text(encoding="utf-8")
        assert str(moments[0].file.parent) not in urllib.parse.unquote(text)
        assert "talk.mp4" in text and ("walk%202.mp4" in text or "walk 2.mp4" in text)


def test_usual_rates():
    """29.97 frames a second are 30000/1001; what most of the videos have counts."""
    rate = fractions.Fraction
    assert edit_lists.usual_rate([rate("29.97"), rate("29.9"), rate(25)]) == rate(30_000, 1001)
    assert edit_lists.usual_rate([rate(15)]) == rate(24_000, 1001)  # the nearest of the usual ones
    assert edit_lists.timecode(30 * 3600 + 29, rate(30_000, 1001)) == "01:00:00:29"


def test_clips_are_a_folder_or_one_file(moments, tmp_path):
    files = export(moments[:2], "mp4", tmp_path / "clips", exact=True)
    assert [path.name for path in files] == ["01_The_talk_1.0-2.5s.mp4", "02_A_walk_0.5-4.0s.mp4"]
    (one,) = export(moments[:1], "mp4", tmp_path / "one.mp4")
    assert one == tmp_path / "one.mp4" and one.stat().st_size > 500


@pytest.mark.parametrize(
    "change,kind,message",
    [
        ({"file": None}, "mp4", 'no file of the video "talk" here'),
        ({"start": 3.0, "end": 3.0}, "csv", "has no length"),
        ({"start": float("nan")}, "csv", "has no length"),
        ({}, "mp5", 'There is no format "mp5". Did you mean "mp4"?'),
    ],
)
def test_refused(moments, tmp_path, change, kind, message):
    with pytest.raises(UserError, match=re.escape(message)):
        export([moments[0]._replace(**change)], kind, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nothing_and_a_folder(moments, tmp_path):
    for kind in FORMATS:
        with pytest.raises(UserError, match="no moment to export"):
            export([], kind, tmp_path / "x")
    with pytest.raises(UserError, match="is a folder"):
        export(moments, "csv", tmp_path)


@pytest.mark.parametrize(
    "text,name",
    [
        ("../../etc/passwd", "etc_passwd"),
        ("a b/c", "a_b_c"),
        (".hidden", "hidden"),
        ("", "video"),
        ("é…ö", "é_ö"),
        ("x" * 300, "x" * 80),
        ("a\0b\n", "a_b"),
    ],
)
def test_names_of_files(text, name):
    assert file_name(text) == name
