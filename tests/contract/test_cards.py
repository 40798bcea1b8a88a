"""Each architecture's file reads like its paper: its card, its sources at the line, one meaning a letter."""

import ast
import functools
import inspect
import itertools
import re
import tokenize
from pathlib import Path

import pytest

import vmr_jax
from vmr_jax import types
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import FAMILIES, SUPERVISION, Card

ROOT = Path(vmr_jax.__file__).parent
NAMES = sorted(
    path.stem for path in (ROOT / "models").glob("*.py") if path.stem not in ("__init__", "base", "card")
)
SHAPED = sorted(path for room in ("models", "layers", "kernels") for path in (ROOT / room).glob("*.py"))
FILES = sorted(ROOT.rglob("*.py"))
by_name = pytest.mark.parametrize("name", NAMES)


def short(path):
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def path_of(name):
    return ROOT / "models" / f"{name}.py"


def card_of(name):
    module = __import__(f"vmr_jax.models.{name}", fromlist=["CARD"])
    assert isinstance(module.CARD, Card)
    return module.CARD


def docstrings(path):
    """Every docstring of a file with the line that it stands at."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(parsed(path)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def comments(path):
    """Every comment of a file with its line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def code_of(name):
    """The file without its own docstring and its card: comments, docstrings and code of what computes."""
    lines = path_of(name).read_text().splitlines()
    body = parsed(path_of(name)).body
    card = [n for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "CARD"]
    for node in (body[0], *card):
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines)


def cited_equations(text):
    """Numbers of 'Eq. 3', 'Eq. 9, 10' and 'Eq. 1-3'."""
    found = set()
    for run in re.findall(r"\bEq\. (\d+(?:(?:-|, | and )\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", run):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def cited_sections(text):
    """Numbers of 'Section 3.1' and 'Sections 3.3 and 3.4'."""
    runs = re.findall(r"\bSections? (\d+(?:\.\d+)*(?:(?:, | and )\d+(?:\.\d+)*)*)", text)
    return {number for run in runs for number in re.findall(r"\d+(?:\.\d+)*", run)}


def test_citations_are_read():
    text = "Eq. 1-3 and then Eq. 9, 11. Not equation 13, not Eq. x; see Sections 3.3 and 3.4.1, and Section 2."
    assert cited_equations(text) == {1, 2, 3, 9, 11}
    assert cited_sections(text) == {"3.3", "3.4.1", "2"}


@by_name
def test_the_card_is_whole(name):
    card = card_of(name)
    assert card.family in FAMILIES
    assert card.supervision in SUPERVISION
    assert re.fullmatch(r"[A-Z][\w-]+( and [A-Z][\w-]+| et al\.)?, [A-Z][\w ]+ 20[12]\d", card.citation)
    assert card.kind and card.features
    assert re.fullmatch(r"([\w.-]+/[\w.-]+@[0-9a-f]{7,40} \([\w ,/]+\))?", card.official_code)
    assert card.verified
    for sentence in (*card.ours, *card.verified):
        assert re.fullmatch(r"\S.*[.]", sentence), sentence


@by_name
def test_the_head_tells_the_method(name):
    """It begins with the method's name and has a table of tensors with shapes; the citation is the card's."""
    head = ast.get_docstring(parsed(path_of(name)))
    assert re.match(r"[\w-]+: \w", head)
    assert head.partition(":")[0].lower().replace("-", "_") == name.replace("two_d", "2d")
    assert len(re.findall(r"^ +\w.* \[[\w,+]+\] ", head, re.MULTILINE)) >= 5
    assert card_of(name).title not in " ".join(head.split())


@by_name
def test_sources_stand_at_the_line(name):
    """Equations and sections of the card stand where they are computed, and no others do."""
    card, code = card_of(name), code_of(name)
    assert cited_equations(code) == set(card.equations)
    assert cited_sections(code) >= set(card.sections)
    if not card.equations:
        # A paper that numbers none, or whose numbers could not be seen: the official code's names instead,
        # those of a port by others, or, where there is neither, what is ours.
        words = r"\b[Oo]fficial\b" if card.official_code else r"\b(port|[Oo]urs)\b"
        assert len(re.findall(words, code)) >= 4


@by_name
def test_every_setting_is_described(name):
    """A phrase that is understood alone: not 'of the layers', not a word."""
    model = __import__(f"vmr_jax.models.{name}", fromlist=["Model"]).Model
    own = [base for base in model.__mro__ if not issubclass(GroundingModel, base) and base.__doc__]
    found = [re.findall(r"^  (\w+): (.+)$", inspect.getdoc(base), re.MULTILINE) for base in own]
    described = dict(itertools.chain.from_iterable(found))
    inherited = {*GroundingModel.__dataclass_fields__, "parent", "name"}
    fields = [field for field in model.__dataclass_fields__ if field not in inherited]
    assert sorted(described) == sorted(fields)
    for field, text in described.items():
        assert not re.match(r"(of|see|what|their|its)\b", text, re.IGNORECASE), f"{field}: {text}"
        assert len(text.split()) >= 3, f"{field}: {text}"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_docstring_begins_with_what(path):
    assert [line for line, text in docstrings(path) if text.startswith("What ")] == []


# Letters of shapes.

TABLE = dict(re.findall(r"(?:^|  )([A-Z])  (\S.*?)(?=$|   )", types.__doc__, re.MULTILINE))
# Letters that have meant several things: a file that uses one must speak of what it means.
SPOKEN_OF = {
    "N": "noun",
    "S": "subword",
    "C": "character",
    "V": "verb",
    "O": "object",
    "A": "annotated",
    "H": "head",
    "Y": "step",
    "G": "map",
    "J": "sentence",
}


def shapes(text):
    """What stands in brackets and is a shape: '[B,T,F]', '[2D+2]', not '[0,1]', '[a, b]' or '[CLS]'."""
    for inside in re.findall(r"\[([A-Za-z0-9_'.*+/ -]+(?:,[A-Za-z0-9_'.*+/ -]+)*)\]", text):
        letters = re.findall(r"(?<![A-Za-z])[A-Z][A-Za-z0-9_]*", inside)
        if letters and ", " not in inside and not re.fullmatch(r"\w\w+", inside):
            yield inside, letters


def test_shapes_are_read():
    text = "[B,T,2F] and [M], [2D + 2,Din]; not [0,1], [a, b], [V1, V2], [CLS] or x[b, i]."
    assert list(shapes(text)) == [
        ("B,T,2F", ["B", "T", "F"]),
        ("M", ["M"]),
        ("2D + 2,Din", ["D", "Din"]),
    ]
    assert len(TABLE) == 26
    assert TABLE["N"] == "nouns of a role tree"


@pytest.mark.parametrize("path", SHAPED, ids=short)
def test_letters_are_those_of_the_table(path):
    head = " ".join((ast.get_docstring(parsed(path)) or "").split())
    own = re.search(r"beyond the usual:(.*)", head)
    defined = set(re.findall(r"\b([A-Z]\w*) [a-z]", own[1])) if own else set()
    defined |= set(re.findall(r"\b([A-Z]) = ", head))
    source = path.read_text().lower()
    for line, text in (*docstrings(path), *comments(path)):
        for shape, letters in shapes(text):
            for letter in letters:
                place = f"{short(path)}:{line} [{shape}]: {letter}"
                assert letter in TABLE or letter in defined, f"{place} is neither in types.py nor at the top"
                if letter not in defined:
                    assert SPOKEN_OF.get(letter, "") in source, f"{place} means {TABLE[letter]}"
