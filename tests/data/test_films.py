"""Films: what is drawn is what happens, and the files and records are those of the seed."""

import itertools
import types

import numpy as np
import pytest

from vmr_jax.configs import datasets
from vmr_jax.configs.fvmr import get_config
from vmr_jax.data import films as dataset
from vmr_jax.data.films import encode, looks, motions
from vmr_jax.data.films.drawing import SIZE
from vmr_jax.data.films.render import FPS, Film, write_film
from vmr_jax.data.films.timelines import QUERIES, SPLITS, films
from vmr_jax.data.storyboard.grammar import ACTIONS, AGENTS, ANYONE, GIVE, OBJECTS, PLACES
from vmr_jax.data.storyboard.scene import CLIP_SECONDS, Event, Scene
from vmr_jax.errors import UserError
from vmr_jax.video.decode import probe, read_frames
from vmr_jax.video.pixels import Pixels


def film_of(*events, seed=0):
    """A film of events one after another, with an idle clip before each and at the end."""
    placed, at = [], 1
    for agent, action, thing, clips in events:
        recipient = "boy" if action == GIVE else None
        placed.append(Event(agent, action, thing, recipient, "kitchen", at, at + clips))
        at += clips + 1
    scene = Scene("film", at, at * CLIP_SECONDS, (events[0][0], "boy"), ("cup",), tuple(placed), ())
    film = Film(scene, np.random.default_rng(seed))
    film._waits[:] = False
    return film


def at_clip(film, clip):
    return film.frame(clip * CLIP_SECONDS).astype(int)


# --- the scenes -----------------------------------------------------------------------------------


def test_a_film_depends_on_seed_split_and_position_alone():
    few, many = ([film.scene for film in films(3, "test", count)] for count in (1, 3))
    assert few == many[:1]
    places = itertools.product((3, 4), SPLITS)
    assert len({film.scene.events for seed, split in places for film in films(seed, split, 2)}) == 12
    again = next(films(3, "test", 1))
    np.testing.assert_array_equal(next(films(3, "test", 1)).frame(7.3), again.frame(7.3))


def test_questions_are_plain_and_lie_in_the_film():
    """A film lasts whole frames, and its last moment ends with it."""
    scenes = [film.scene for film in films(0, "train", 30)]
    for scene in scenes:
        frames = scene.duration * FPS
        assert frames == pytest.approx(round(frames), abs=1e-6)
        assert 0 < len(scene.questions) <= QUERIES
        for question in scene.questions:
            assert question.meaning.relation == ""
            assert 0 <= question.span[0] < question.span[1] <= scene.duration
    assert max(len(scene.questions) for scene in scenes) == QUERIES


# --- the pictures ---------------------------------------------------------------------------------


def test_everything_of_the_grammar_has_a_picture():
    assert looks.PEOPLE.keys() == AGENTS.keys() - {ANYONE}
    assert looks.THINGS.keys() == OBJECTS.keys()
    assert looks.PLACES.keys() == PLACES.keys()
    assert motions.MOTIONS.keys() == ACTIONS.keys()


def test_something_moves_in_an_event_and_nothing_between_events():
    film = film_of(("man", "wash", "cup", 4), ("man", "throw", "cup", 4))
    moves = [
        (film.frame(k / FPS) != film.frame((k + 1) / FPS)).any()
        for k in range(int(film.scene.duration * FPS) - 1)
    ]
    clips = (np.arange(len(moves)) + 0.5) / FPS / CLIP_SECONDS
    # Events are in clips [1,5) and [6,10) of 11; one frame steps over each of their four bounds.
    expected = ((clips > 1) & (clips < 5)) | ((clips > 6) & (clips < 10))
    assert (np.asarray(moves) != expected).sum() <= 4


@pytest.mark.parametrize("action", ACTIONS)
def test_each_person_and_object_of_an_action_can_be_seen(action):
    """Beside the same room without them; and another agent or object is another picture."""
    pictures = {}
    for agent, thing in itertools.product(("man", "woman", "girl"), ACTIONS[action].objects):
        film = film_of((agent, action, thing, 4))
        empty, full = at_clip(film, 5.5), at_clip(film, 2.7)
        assert (abs(full - empty).max(-1) > 40).mean() > 0.03  # of the picture: at least 490 pixels
        pictures[agent, thing] = full
    for one, other in itertools.combinations(pictures, 2):
        assert (abs(pictures[one] - pictures[other]).max(-1) > 40).sum() > 60, (one, other)


@pytest.mark.parametrize("first,second", [("open", "close"), ("turn on", "turn off")])
def test_an_action_ends_as_its_opposite_begins(first, second):
    """The thing alone, where the agent does not reach: it is open, or shines, at one end of the event."""
    thing = "laptop"
    x, y = motions.THING_X, looks.rests_at(thing)
    size = looks.THINGS[thing]
    top = slice(int(y - size.height / 2 - 8), int(y - 4))
    seen = {}
    for action in (first, second):
        film = film_of(("man", action, thing, 6))
        film._shift = (0.0, 0.0)
        for end, clip in (("start", 1.01), ("end", 6.99)):
            seen[action, end] = at_clip(film, clip)[top, int(x) : int(x + size.width / 2)]

    def differ(a, b):
        return abs(seen[a] - seen[b]).mean()

    same = differ((first, "start"), (second, "end")), differ((first, "end"), (second, "start"))
    assert max(same) < 0.2 * differ((first, "start"), (first, "end"))


def test_who_gives_is_on_the_left_and_who_receives_on_the_right():
    """The man is blue and the boy green; the shift of the camera is at most four pixels."""
    film = film_of(("man", GIVE, "box", 4))
    picture = at_clip(film, 2.5)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    man = np.flatnonzero(((blue > 80) & (red < 60) & (green < 90)).sum(0))
    boy = np.flatnonzero(((green > 110) & (red < 90) & (blue < 90)).sum(0))
    assert np.median(man) < SIZE / 2 < np.median(boy)


# --- the files ------------------------------------------------------------------------------------


def test_the_file_is_the_film(tmp_path):
    film = film_of(("woman", "carry", "bag", 3))
    write_film(film, tmp_path / "film.mp4")
    found = probe(tmp_path / "film.mp4")
    assert (found.width, found.height) == (SIZE, SIZE)
    assert found.duration == pytest.approx(film.scene.duration, abs=1e-3)
    chunks = read_frames(tmp_path / "film.mp4", FPS, lambda frame: frame.to_ndarray(format="rgb24"))
    times, pictures = (np.concatenate(part) for part in zip(*chunks))
    assert len(times) == round(film.scene.duration * FPS)
    for k in range(0, len(times), 7):  # H.264 loses some; a picture of another second differs by more
        assert abs(pictures[k].astype(int) - film.frame(k / FPS)).mean() < 5


def test_a_writer_that_dies_leaves_no_file(tmp_path, monkeypatch):
    film = film_of(("woman", "carry", "bag", 3))
    monkeypatch.setattr(film, "frames", lambda: iter([film.frame(0.0), "no picture"]))
    with pytest.raises(AttributeError):
        write_film(film, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_rendered_again(tmp_path):
    short = film_of(("woman", "carry", "bag", 1))
    (tmp_path / "film.mp4").write_bytes(b"as it was")
    ((film, path),) = encode.written([short], tmp_path)
    assert film is short
    assert path.read_bytes() == b"as it was"


# --- the records ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return types.SimpleNamespace(
        name="films", data_dir=str(tmp_path_factory.mktemp("films")), seed=5, train_videos=2, test_videos=1
    )


def test_records_hold_the_features_of_the_files(options):
    import tensorflow_datasets as tfds

    builder = dataset.prepare(options)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    for split in SPLITS:
        rows = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        for row, path, film in zip(rows, dataset.files(options, split), films(5, split, 2)):
            assert row["video"].decode() == path.stem == film.scene.video
            assert row["duration"] == np.float32(film.scene.duration)
            encoder, before, expected = Pixels(), None, []
            for _, frames in read_frames(path, encoder.rate, encoder.prepare):
                expected.append(encoder.encode(frames, before))
                before = frames[-1]
            np.testing.assert_array_equal(row["pixels"], np.concatenate(expected))
            texts = [text.decode() for text in row["queries"]["text"]]
            assert texts == [question.sentence.text for question in film.scene.questions]


def test_the_config_has_the_width_of_the_encoder():
    config = get_config("films")
    assert config.dataset.feature_dim == Pixels.dim
    assert datasets.DATASETS["films"] == ()


@pytest.mark.parametrize("field,value", [("seed", -1), ("train_videos", 0), ("test_videos", 0.5)])
def test_a_wrong_number_is_refused(options, field, value):
    wrong = types.SimpleNamespace(**{**vars(options), field: value})
    with pytest.raises(UserError, match=f"config.dataset.{field} is {value}; films expects a whole number"):
        dataset.prepare(wrong)
