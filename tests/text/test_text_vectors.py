"""Word vectors: lookup, both file formats, and every error."""

import pathlib

import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.text.vectors import WordVectors, load_word_vectors

SHARED = pathlib.Path(__file__).resolve().parents[2] / "../shared/data/word_vectors"


def _file(tmp_path, text, name="glove.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_lookup_gives_rows_in_order_and_zeros_for_unknown_words():
    vectors = WordVectors(["door", "open"], np.array([[1.0, 2.0], [3.0, 4.0]]))
    found = vectors.lookup(["open", "closet", "door", "open"])
    assert found.dtype == np.float32 and vectors.dim == 2 and len(vectors) == 2
    np.testing.assert_array_equal(found, [[3, 4], [0, 0], [1, 2], [3, 4]])
    assert vectors.known("door") and not vectors.known("closet")
    assert vectors.lookup([]).shape == (0, 2)


def test_the_first_of_two_rows_of_a_word_counts():
    vectors = WordVectors(["a", "b", "a"], np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(vectors.lookup(["a"]), [[1]])


@pytest.mark.parametrize(
    "words, vectors, message",
    [
        (["a"], np.ones((2, 3)), "for 1 words they have shape"),
        (["a"], np.ones(3), "shape"),
        (["a"], np.ones((1, 3), int), "floating-point"),
        (
            ["a", "b"],
            np.array([[1.0], [np.nan]]),
            '1 of 2 word vectors hold NaN or infinity, first that of "b"',
        ),
    ],
)
def test_arrays_that_do_not_fit(words, vectors, message):
    with pytest.raises(UserError, match=message):
        WordVectors(words, vectors)


def test_text_file(tmp_path):
    # GloVe 840B has words with blanks in them; the last two fields are the numbers.
    path = _file(tmp_path, "the 0.5 -1\n. . . 2 3e-1\r\ncafé 4 5\n")
    vectors = load_word_vectors(path)
    np.testing.assert_array_equal(
        vectors.lookup(["the", ". . .", "café"]), np.array([[0.5, -1], [2, 0.3], [4, 5]], np.float32)
    )


def test_text_file_keeps_the_wanted_words_only_and_parses_no_other(tmp_path):
    path = _file(tmp_path, "the 0.5 -1\nbroken x y\ndoor 2 3\n")
    vectors = load_word_vectors(str(path), {"door", "absent"})
    assert len(vectors) == 1 and vectors.known("door") and not vectors.known("absent")


def test_word2vec_header_is_skipped(tmp_path):
    vectors = load_word_vectors(_file(tmp_path, "2 3\nthe 1 2 3\ndoor 4 5 6\n"))
    assert vectors.dim == 3 and len(vectors) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("the 1 2\ndoor 3\n", r"glove\.txt, line 2: expected a word and 2 numbers"),
        ("the 1 2\ndoor 3 four\n", r"glove\.txt, line 2: expected a word and 2 numbers"),
        ("the 1 2\n\ndoor 3 4\n", r"glove\.txt, line 2"),
        ("the 1 2\nto 3 4\ndoor nan 4\n", r"glove\.txt, line 3: the vector holds NaN"),
        ("the 1 2\ndoor 3 inf\n", r"glove\.txt, line 2: the vector holds NaN or infinity"),
        ("the\n", r"glove\.txt, line 1"),
        ("", "no vector of any word"),
        (b"the 1 2\nd\xffr 3 4\n", "not UTF-8"),
    ],
)
def test_malformed_text_file_names_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_word_vectors(_file(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    vectors = load_word_vectors(_file(tmp_path, "\ufeffdoor 1 2\nopen 3 4\n"))
    np.testing.assert_array_equal(vectors.lookup(["door"]), [[1, 2]])


def test_numbers_that_no_word_has_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"glove\.txt, line 2: the vector holds 1e\+30, more than any word's"):
        load_word_vectors(_file(tmp_path, "door 1 2\nopen 3 -1e30\n"))


def test_packed_vectors_are_bounded_by_the_file(tmp_path):
    """64 MiB and four numbers, all zero: deflate makes them a thousand times smaller."""
    np.savez_compressed(tmp_path / "v.npz", words=["a"], vectors=np.zeros((1, 2**24 + 4), np.float32))
    with pytest.raises(UserError, match=r"v\.npz claims 67,\d{3},\d{3} bytes, more than it can hold"):
        load_word_vectors(tmp_path / "v.npz")


def test_no_wanted_word(tmp_path):
    with pytest.raises(UserError, match="no vector of any word that is wanted"):
        load_word_vectors(_file(tmp_path, "the 1 2\n"), {"door"})


def test_npz_file(tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, words=np.array(["the", "door"]), vectors=np.array([[1.0, 2.0], [3.0, 4.0]], np.float16))
    np.testing.assert_array_equal(load_word_vectors(path).lookup(["door"]), [[3, 4]])
    only = load_word_vectors(path, ["door"])
    assert len(only) == 1 and only.known("door")


def test_npz_errors_name_the_file_and_what_is_there(tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, words=np.array(["the"]), embeddings=np.ones((1, 2)))
    with pytest.raises(UserError, match=r"vectors\.npz has no array vectors \(it has: words, embeddings\)"):
        load_word_vectors(path)
    np.savez(path, words=np.array(["the"], object), vectors=np.ones((1, 2)))
    with pytest.raises(UserError, match=r"vectors\.npz cannot be read"):  # a pickle is never opened
        load_word_vectors(path)
    np.savez(path, words=np.array(["the", "a"]), vectors=np.ones((1, 2)))
    with pytest.raises(UserError, match=r"vectors\.npz: .*for 2 words"):
        load_word_vectors(path, ["the"])
    np.savez(path, words=np.array(["the"]), vectors=np.array([[np.nan, 1]]))
    with pytest.raises(UserError, match=r"vectors\.npz: 1 of 1 word vectors hold NaN"):
        load_word_vectors(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"vectors\.npz cannot be read"):
        load_word_vectors(path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match=r"glove\.6B\.zip from the Stanford"):
        load_word_vectors(tmp_path / "glove.6B.300d.txt")
    with pytest.raises(UserError, match=r'not from "\.zip"'):
        load_word_vectors(_file(tmp_path, "x", "glove.6B.zip"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_glove_rows():
    vectors = load_word_vectors(SHARED / "glove_6B_300d_charades.npz")
    # 1,145 rows of 300 numbers, by the data's own README.
    assert (len(vectors), vectors.dim) == (1145, 300)
    door, closet, smiling = vectors.lookup(["door", "closet", "smiling"])

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(door, closet) > cosine(door, smiling)
