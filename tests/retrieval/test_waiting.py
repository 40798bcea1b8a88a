"""Many who ask at once are answered together, each with his own answer."""

import asyncio

import pytest
from serving import search

from vmr_jax.errors import UserError
from vmr_jax.retrieval import waiting


def asked_together(questions, search):
    """Answers or errors of questions (sentence, k, video) that all wait before the first search."""

    async def together():
        queue = waiting.SearchQueue(search)
        asking = [asyncio.ensure_future(queue.ask(*question)) for question in questions]
        await asyncio.sleep(0)  # all have asked
        running = asyncio.ensure_future(queue.run())
        found = await asyncio.gather(*asking, return_exceptions=True)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return found

    return asyncio.run(together())


def counting(calls):
    def counted(sentences, k, video):
        calls.append((len(sentences), video))
        return search(sentences, k, video)

    return counted


def test_who_waits_is_answered_together():
    questions = [(f"sentence {i}", 1 + i % 50, None) for i in range(37)]
    calls = []
    found = asked_together(questions, counting(calls))
    assert found == [search([sentence], k, video)[0] for sentence, k, video in questions]
    assert calls == [(16, None), (16, None), (8, None)]  # 37 are 16 + 16 + 5, and 5 are searched as 8


def test_videos_take_turns():
    calls = []
    questions = [(f"sentence {i}", 2, None) for i in range(18)] + [("other", 3, "a"), ("sentence", 2, "a")]
    found = asked_together(questions, counting(calls))
    assert found == [search([sentence], k, video)[0] for sentence, k, video in questions]
    assert calls == [(16, None), (2, "a"), (2, None)]


def test_a_query_that_fails_fails_alone():
    sentences = [f"sentence {i}" for i in range(11)]
    sentences[3], sentences[8] = "???", "break"
    found = asked_together([(sentence, 4, None) for sentence in sentences], search)
    assert isinstance(found[3], UserError) and isinstance(found[8], RuntimeError)
    for i in set(range(11)) - {3, 8}:
        assert found[i] == search([sentences[i]], 4, None)[0]


def test_too_many_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(waiting, "MAX_WAITING", 3)
    found = asked_together([(f"sentence {i}", 1, None) for i in range(5)], search)
    assert found[:3] == [search([f"sentence {i}"], 1, None)[0] for i in range(3)]
    assert [error.status_code for error in found[3:]] == [503, 503]


def test_a_client_that_leaves_does_not_stop_the_others():
    async def leaving():
        queue = waiting.SearchQueue(search)
        left = asyncio.ensure_future(queue.ask("gone", 1, None))
        stays = asyncio.ensure_future(queue.ask("stays", 1, None))
        await asyncio.sleep(0)
        left.cancel()
        running = asyncio.ensure_future(queue.run())
        found = await stays
        running.cancel()
        await asyncio.gather(running, left, return_exceptions=True)
        return found

    assert asyncio.run(leaving()) == search(["stays"], 1, None)[0]


# --- errors that are the search's own --------------------------------------------------------------------


@pytest.mark.parametrize("error", [StopIteration(3), SystemExit("ended"), RuntimeError("too few")])
def test_nobody_waits_for_ever_whatever_the_search_does(error):
    """A StopIteration cannot be handed to who waits, and the others are no failure of a sentence."""

    def failing(sentences, k, video):
        if "bad" in sentences:
            if isinstance(error, RuntimeError):
                return []  # no answer to anyone
            raise error
        return search(sentences, k, video)

    found = asked_together([("one", 1, None), ("bad", 1, None), ("two", 1, None), ("three", 1, "a")], failing)
    assert isinstance(found[1], RuntimeError)
    assert [found[i] for i in (0, 2, 3)] == [
        search([sentence], 1, video)[0] for sentence, video in (("one", None), ("two", None), ("three", "a"))
    ]


# --- filters -----------------------------------------------------------------------------------------


def test_those_who_search_the_same_videos_are_answered_together():
    calls = []
    questions = [("one", 2, frozenset({"a", "b"})), ("two", 3, None), ("three", 1, frozenset({"b", "a"}))]
    found = asked_together(questions, counting(calls))
    assert found == [search([sentence], k, video)[0] for sentence, k, video in questions]
    assert calls == [(2, frozenset({"a", "b"})), (1, None)]
