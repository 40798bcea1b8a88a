"""The refusal of an unknown name: one grammar, and the nearest name."""

from pathlib import Path

import pytest

from vmr_jax import errors
from vmr_jax.errors import UserError, nearest, unknown, user_path

RECALLS = [f"R@{n},IoU={m}" for n in (1, 5) for m in (0.3, 0.5, 0.7)]
METRICS = [*RECALLS, *(f"d{name}" for name in RECALLS), "mIoU", "mAP", "mAP,IoU=0.5", "mAP,IoU=0.75", "Rank@1"]


@pytest.mark.parametrize("n,m", [(1, "0.3"), (1, "0.5"), (5, "0.5"), (5, "0.7")])
@pytest.mark.parametrize(
    "spelling",
    ["R{n}@{m}", "Rank{n}@{m}", "R@{n},IoU={short}", "R{n}-{m}", "r@{n},iou={m}", "Recall@Top{n}_IoU={m}"],
)
def test_another_spelling_of_a_metric_is_near_to_the_one_with_its_numbers(spelling, n, m):
    name = spelling.format(n=n, m=m, short=m.removeprefix("0"))
    assert nearest(name, METRICS) == f' Did you mean "R@{n},IoU={m}"?'


@pytest.mark.parametrize(
    "name,expected",
    [
        ("mAP@0.75", "mAP,IoU=0.75"),
        ("miou", "mIoU"),
        ("dR1@.7", "dR@1,IoU=0.7"),
        ("Rank1", "Rank@1"),
        ("RANK1", "Rank@1"),
    ],
)
def test_numbers_and_letters_of_other_metrics(name, expected):
    assert nearest(name, METRICS) == f' Did you mean "{expected}"?'


@pytest.mark.parametrize(
    "name,known,expected",
    [
        # Characters alike: 'R@5' 6 of 9, 'R@1,IoU=0.5' 10 of 17; 'cat2013' 12 of 14, '2012_cats' 8 of 16.
        ("R1@0.5", ["R@5", "R@1,IoU=0.5"], "R@1,IoU=0.5"),
        ("cat2012", ["cat2013", "2012_cats"], "2012_cats"),
        ("vid12", ["vid13", "film_12"], "vid13"),  # of the letters 'vid' and 'film_' two of eight are alike
        ("vid12", ["vid13", "dog"], "vid13"),  # nothing has the digits
    ],
)
def test_a_suggestion_differs_in_a_digit_only_where_no_other_has_the_digits(name, known, expected):
    assert nearest(name, known) == f' Did you mean "{expected}"?'


def test_a_name_with_numbers_that_nothing_has_is_compared_by_its_letters():
    assert nearest("scale_layers2", ["features", "scale_layers"]) == ' Did you mean "scale_layers"?'


def test_the_same_number_does_not_outweigh_another_name():
    # 7 of 8 characters against 4 of 8 and 7 (2 * 4 / 15 = 0.53), and 0.2 for the number.
    assert nearest("castle_2", ["house_2", "castle_1"]) == ' Did you mean "castle_1"?'


def test_nothing_is_near():
    assert nearest("zzz", ["features", "heads"]) == "" and nearest("features", []) == ""


def test_the_grammar():
    error = unknown("There is no dataset", "tacoss", ("tvr", "tacos"), "Choose one.")
    assert isinstance(error, UserError)
    assert str(error) == 'There is no dataset "tacoss". Did you mean "tacos"? Known: tvr, tacos. Choose one.'
    assert str(unknown("config.x is", 3, ())) == 'config.x is "3". Known: none.'


def test_names_with_commas_are_parted_by_semicolons():
    assert str(unknown("No metric", "x", ("mIoU", "R@1,IoU=0.5"))) == 'No metric "x". Known: mIoU; R@1,IoU=0.5.'


def test_many_names_are_cut(monkeypatch):
    monkeypatch.setattr(errors, "_SHOWN", 2)
    assert str(unknown("No video", "x", "abcde")) == 'No video "x". Known: a, b and 3 more.'


def test_a_home_folder_that_this_machine_does_not_know(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of_me")
    assert user_path("~/runs") == Path("/home/of_me/runs") and user_path("a/~b") == Path("a/~b")
    with pytest.raises(UserError, match="^~no_such_user/runs begins with ~no_such_user, a home folder that"):
        user_path("~no_such_user/runs")


def test_what_no_system_takes_as_a_path():
    with pytest.raises(UserError, match=f"^{'x' * 60}... is too long for a path. Give a shorter one.$"):
        user_path("x" * 300)
    with pytest.raises(UserError, match="is no path: it has a null character"):
        user_path("a\0b")
    assert user_path("no/such/folder") == Path("no/such/folder")
