"""What a library finds without a run, and how sure it is of what it finds."""

import json
import logging

import colours_model
import filmed
import numpy as np
import pytest
from colours_model import coloured, run_of
from image_text_folder import write_clip

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.evaluation.metrics import iou
from vmr_jax.modes import serve
from vmr_jax.modes.search import search_library
from vmr_jax.retrieval import confidence
from vmr_jax.retrieval.confidence import annotated_sentences
from vmr_jax.video import ingest


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Two films of 16 s and one of 40 s."""
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)  # the tests' files are whole
    folder = tmp_path / "films"
    folder.mkdir()
    filmed.film(folder / "a.mp4", 16.0, show=coloured(("grey", 4), ("red", 5), ("green", 16)))
    filmed.film(folder / "b.mkv", 16.0, show=coloured(("grey", 8), ("green", 10), ("grey", 16)))
    filmed.film(folder / "long.mp4", 40.0, fps=4, show=coloured(("blue", 20), ("red", 21), ("grey", 40)))
    return folder


# The frame encoder's own moments.


@pytest.fixture
def clip(tmp_path, films):
    """A library by a CLIP of random weights, of windows of 16 s."""
    lib = vmr.Library(tmp_path / "lib", encoder="clip", encoder_dir=write_clip(tmp_path / "clip"), window=16.0)
    lib.update(films)
    return lib


def test_the_best_moments_are_those_of_zero_shot(tmp_path, clip):
    """Of every window of each video, of which the long one has four: 0, 8, 16 and 24 s on."""
    sentence = clip.encoder.encode_sentences(["a man"])[0]
    model = vmr.create("zero_shot", text="sentence")
    expected = []
    for video in clip.videos:
        rows = np.load(next((clip.path / "features").glob(f"{video.content}*")))
        assert len(rows) == round(video.duration)  # one a second
        for start in (0,) if len(rows) == 16 else (0, 8, 16, 24):
            batch = vmr.Batch.of(video=[rows[start : start + 16]])
            vectors, spans, mask = model.apply({}, batch, method="encode_moments")
            scores = np.asarray(vectors[0] @ sentence)
            expected += [(s, video.id, *(start + p)) for s, p, m in zip(scores, spans[0], mask[0]) if m]
    expected.sort(key=lambda moment: -moment[0])
    kept = []
    for moment in expected:
        same = [np.array(other[2:]) for other in kept if other[1] == moment[1]]
        if not same or iou(np.array(moment[2:]), np.stack(same)).max() <= 0.5 + 1e-5:
            kept.append(moment)
    hits = clip.search("a man", k=5)
    np.testing.assert_allclose([hit.score for hit in hits], [moment[0] for moment in kept[:5]], atol=1e-5)
    for hit, moment in zip(hits, kept):
        if abs(moment[0] - hit.score) < 1e-7:
            assert (hit.video, hit.start, hit.end) == (moment[1], *moment[2:])
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5] and {hit.confidence for hit in hits} == {None}
    assert all(hit.gap == pytest.approx(hit.score - after.score) for hit, after in zip(hits, hits[1:]))


def test_other_weights_are_another_index(tmp_path, films, clip):
    clip.search("a man")
    (first,) = [path for path in (clip.path / "index").iterdir() if path.is_dir()]
    wider = vmr.Library(clip.path, window=20.0)
    wider.search("a man")
    assert len([path for path in (clip.path / "index").iterdir() if path.is_dir()]) == 2
    with pytest.raises(UserError, match="encoder"):
        other = write_clip(tmp_path / "other", seed=1)
        vmr.Library(clip.path, encoder_dir=other)
    assert first.exists()


# Confidence.


def annotate(lib, count, name="val", wrong=()):
    """Sentences of red, with the second of either film that shows it, in turn; `wrong` ones have another."""
    rows = []
    for i in range(count):
        video, duration, span = (("a", 16.0, [4, 5]), ("long", 40.0, [20, 21]))[i % 2]
        span = [12, 14] if i in wrong else span
        rows.append({"video": video, "duration": duration, "query": "red", "windows": [span]})
    (lib.path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def library(tmp_path, films):
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path), window=16.0)
    lib.update(films)
    return lib


def test_confidence_is_fitted_to_the_sentences_of_the_library(library, monkeypatch):
    assert library.search("red")[0].confidence is None and library.calibration() is None
    annotate(library, 40)
    again = vmr.Library(library.path, run=library.run, window=16.0)
    hits = again.search("red", k=10)
    found = again.calibration()
    assert found.queries == 40
    np.testing.assert_allclose([hit.confidence for hit in hits], found.confidence([hit.score for hit in hits]))
    assert all(a.confidence >= b.confidence for a, b in zip(hits, hits[1:]))
    # Two films show red for a second, and each sentence is of one of them: half of the two best hits are right.
    assert {(hit.video, hit.start, hit.end) for hit in hits[:2]} == {("a", 4, 5), ("long", 20, 21)}
    assert [hit.confidence for hit in hits[:2]] == pytest.approx([0.5, 0.5], abs=0.1)
    assert max(hit.confidence for hit in hits if hit.score < hits[0].score / 2) < 0.1
    # In one video there is no other.
    inside = again.search("red", video="a")
    assert again.calibration(within=True) != found and inside[0].confidence > hits[0].confidence
    # It is kept, and read by the next one.
    monkeypatch.setattr(confidence, "fit", None)
    third = vmr.Library(library.path, run=library.run, window=16.0)
    assert third.calibration() == found
    monkeypatch.undo()
    annotate(library, 40, wrong=range(0, 40, 4))
    fourth = vmr.Library(library.path, run=library.run, window=16.0)
    assert fourth.calibration().queries == 40 and fourth.calibration() != found


def test_a_run_that_is_no_dual_encoder_is_calibrated_too(library, tmp_path, monkeypatch):
    """On sixty of the sentences: as many of either video, where all those of the first one are wrong.

    So a best moment is right in half of the sentences.
    """
    annotate(library, 120, wrong=range(0, 120, 2))
    run = run_of(colours_model.Joint(), tmp_path)
    lib = vmr.Library(library.path, run=run, window=16.0)
    hits = lib.search("red", k=10, video="a")
    found = lib.calibration(within=True)
    assert found.queries == confidence.FEW == 60
    np.testing.assert_allclose([hit.confidence for hit in hits], found.confidence([hit.score for hit in hits]))
    assert hits[0][:3] == ("a", 4, 5) and hits[0].confidence == pytest.approx(0.5, abs=0.1)
    assert hits[-1].confidence < 0.1
    monkeypatch.setattr(confidence, "fit", None)
    assert vmr.Library(library.path, run=run, window=16.0).calibration(within=True) == found
    with pytest.raises(TypeError):  # fitted anew: the windows are others
        vmr.Library(library.path, run=run, window=20.0).calibration(within=True)


@pytest.fixture
def joint(library, tmp_path):
    """A folder with annotated sentences, and a run that is no dual encoder."""
    annotate(library, 40)
    return library.path, run_of(colours_model.Joint(), tmp_path)


def questioned(lib, monkeypatch):
    """A server of a library that begins to answer; gives the hits of its first and second question."""
    answers, fitted = [], []
    fit = confidence.fit

    def answer(service, listener, token, opens):
        monkeypatch.setattr(confidence, "fit", lambda answers: fitted.append(1) or fit(answers))
        answers.append(service.corpus.search(["red"], 5, None)[0])
        while lib.confidences._thread and lib.confidences._thread.is_alive():
            lib.confidences._thread.join()
        answers.append(service.corpus.search(["red"], 5, None)[0])

    monkeypatch.setattr(serve, "answer", answer)
    serve.serve_library(lib, "127.0.0.1", 0)
    return *answers, fitted


def test_a_server_is_calibrated_before_its_first_question(joint, monkeypatch, capsys, caplog):
    path, run = joint
    with caplog.at_level(logging.INFO, "vmr_jax"):
        first, second, fitted = questioned(vmr.Library(path, run=run, window=16.0), monkeypatch)
    assert first == second and all(hit.confidence is not None for hit in first) and not fitted
    assert "fitting the confidence of hits ..." in capsys.readouterr().out
    assert "to 40 annotated sentences, once, for searches of all videos" in caplog.text
    assert len(list((path / confidence.FOLDER).iterdir())) == 2  # all videos, and one alone
    monkeypatch.setattr(confidence, "_answers", None)  # what was fitted is kept
    vmr.Library(path, run=run, window=16.0).prepare()


def test_nobody_waits_for_a_new_calibration(joint, films, monkeypatch):
    """A film comes while the server runs: its first answer has no confidence, those after the fit have."""
    path, run = joint
    lib = vmr.Library(path, run=run, window=16.0)
    prepare = lib.prepare

    def prepared():
        prepare()
        other = vmr.Library(path)
        other.add(filmed.film(films / "new.mp4", 16.0, show=coloured(("grey", 2), ("red", 3), ("grey", 16))))

    monkeypatch.setattr(lib, "prepare", prepared)
    monkeypatch.setattr(serve.LibraryCorpus, "warm", lambda self: None)
    first, second, fitted = questioned(lib, monkeypatch)
    assert {hit.confidence for hit in first} == {None} and len(fitted) == 2
    assert "new" in {hit.video for hit in first} and [hit[:4] for hit in first] == [hit[:4] for hit in second]
    expected = lib.calibration().confidence([hit.score for hit in second])
    np.testing.assert_allclose([hit.confidence for hit in second], expected)


def test_a_fit_that_fails_or_cannot_be_kept_stops_no_search(joint, monkeypatch, caplog):
    path, run = joint
    (path / confidence.FOLDER).write_text("a file in the place of the folder")
    lib = vmr.Library(path, run=run, window=16.0)
    assert lib.search("red")[0].confidence is not None and "is not kept" in caplog.text
    monkeypatch.setattr("vmr_jax.retrieval.refining.REFINED", 1)  # of eight windows
    vmr.Library(path, run=run, window=16.0).prepare()
    assert "Hits have no confidence in searches of all videos: The run scores a moment together" in caplog.text


def test_a_part_of_the_training_sentences_is_not_trained_on(library):
    """Where there is no val.jsonl; videos are named with or without their suffix, and others are left out."""
    annotate(library, 40, name="train")
    (line, *rest) = (library.path / "train.jsonl").read_text().splitlines()
    other = json.loads(line) | {"video": "a.mp4"}
    elsewhere = json.loads(line) | {"video": "elsewhere"}
    lines = [*rest, *(json.dumps(row) for row in (other, elsewhere))]
    (library.path / "train.jsonl").write_text("\n".join(lines) + "\n")
    held_out = annotated_sentences(library.path, {"a", "b", "long"})
    videos = {sentence.video for sentence in held_out}
    assert len(videos) <= 1  # a tenth of four videos, at least one
    (library.path / "val.jsonl").write_text("\n".join(lines) + "\n")
    (library.path / "train.jsonl").unlink()
    found = annotated_sentences(library.path, {"a", "b", "long"})
    assert {sentence.video for sentence in found} == {"a", "long"} and len(found) == 40
    assert found[0].text == "red" and found[0].windows == ((20.0, 21.0),)


def test_few_sentences_and_damaged_ones_leave_rank_and_lead(library, caplog):
    annotate(library, 29)
    assert vmr.Library(library.path, run=library.run).search("red")[0].confidence is None
    (library.path / "val.jsonl").write_text('{"video": "a"\n')
    with caplog.at_level(logging.WARNING, "vmr_jax"):
        hits = vmr.Library(library.path, run=library.run).search("red")
    assert hits and hits[0].confidence is None
    assert "Hits have no confidence: " in caplog.text and "val.jsonl, line 1" in caplog.text


def test_the_command_says_how_sure_it_is(library, capsys, monkeypatch):
    monkeypatch.setattr(vmr.Run, "load", lambda *_, **__: library.run)
    arguments = (str(library.path), "run", "green", None, 3, 16.0, None)
    search_library(*arguments)
    assert "lead" in capsys.readouterr().out
    annotate(library, 40, wrong=range(40))
    search_library(*arguments)
    printed = " ".join(capsys.readouterr().out.split())
    assert "confidence" in printed and "lead" not in printed
    assert "No confident match: the most likely moment is right with a probability of" in printed
    assert "Confidence is fitted to 40 sentences whose moments are known (IoU >= 0.5)" in printed
