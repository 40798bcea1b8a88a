"""The embedded dataset: its promises hold, and it is a test bed that asks for the whole sentence."""

import dataclasses
import re

import numpy as np
import pytest
from storyboard_options import COUNTS, questions_of, storyboard_options

from vmr_jax.data import storyboard
from vmr_jax.data.storyboard import grammar
from vmr_jax.data.storyboard.generate import VIDEOS, generate, scene_record
from vmr_jax.data.storyboard.render import PHASE_GAIN, SHAPES
from vmr_jax.data.storyboard.splits import SPLITS
from vmr_jax.data.storyboard.translation import translate, translated_word
from vmr_jax.data.storyboard.vectors import vectors, words_of
from vmr_jax.evaluation.metrics import iou
from vmr_jax.input import schema

# --- an independent reading of the sentences --------------------------------------------------------
# The writer goes from meaning to text and span. This goes from text to meaning and from there to every
# moment of the timeline that fits, sharing nothing with it but the lists of words.

NOUN_OF = {
    word: (kind, name)
    for kind, table in (("agent", grammar.AGENTS), ("object", grammar.OBJECTS), ("place", grammar.PLACES))
    for name, noun in table.items()
    for word in noun.words + noun.novel
}


VERB_OF = {
    (form, verb.particle): name
    for name, action in grammar.ACTIONS.items()
    for verb in action.verbs + action.novel
    for form in (verb.third, verb.gerund)
}


def _read_clause(words):
    """Words of one clause -> {'agent', 'action', 'object', 'recipient', 'place'}, of those that it names."""
    clause = {"recipient": None}
    for i, word in enumerate(words):
        if word in NOUN_OF:
            kind, name = NOUN_OF[word]
            clause["recipient" if i > 1 and words[i - 2] == "to" else kind] = name
    actions = [VERB_OF[a, b] for a, b in zip(words, [*words[1:], ""]) if (a, b) in VERB_OF]
    actions += [VERB_OF[w, ""] for w in words if (w, "") in VERB_OF]
    assert len(actions) == 1, words
    return clause | {"action": actions[0]}


def _read(text):
    """Text -> (relation, main clause, other clause or None)."""
    relation = next((w for w in words_of(text) if w in grammar.RELATIONS), "")
    if relation in ("", "again"):
        return relation, _read_clause(words_of(text)), None
    if text.startswith(relation):
        other, main = text.removeprefix(relation).split(",")
    else:
        main, other = re.split(rf"\b{relation}\b", text)
    main, other = _read_clause(words_of(main)), _read_clause(words_of(other))
    return relation, main, {"agent": main["agent"]} | other


def _indices(events, clause):
    """The events that a clause fits."""

    def fits(event):
        return all(getattr(event, part) == name or name == "person" for part, name in clause.items())

    return [i for i, event in enumerate(events) if fits(event)]


def _answers(events, text):
    """Every (first, last) event that a sentence may mean."""
    relation, main, other = _read(text)
    fitting = _indices(events, main)
    if relation == "":
        return [(i, i) for i in fitting]
    if relation == "again":
        assert len(fitting) == 2  # with three, "again" would be the second or the third
        return [(fitting[1], fitting[1])]
    others = _indices(events, other)
    if relation == "then":
        return [(i, j) for i in fitting for j in others if i < j]
    assert len(others) == 1 and len(fitting) > 1  # the relation is clear, and needed
    (j,) = others
    return [(i, i) for i in fitting if (i < j if relation == "before" else i > j)]


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_describes_exactly_one_moment(generated, split):
    for scene, _, question in questions_of(generated, split):
        answers = _answers(scene.events, question.sentence.text)
        assert len(answers) == 1, (question.sentence.text, scene.events)
        first, last = answers[0]
        assert last - first <= 1
        # A clip is 1.5 s; the last one is cut by the end of the video.
        start, end = scene.events[first].start * 1.5, scene.events[last].end * 1.5
        assert question.span == (start, min(end, scene.duration))
        relation, _, other = _read(question.sentence.text)
        if relation in ("before", "after"):
            (j,) = _indices(scene.events, other)
            event = scene.events[j]
            assert question.context == (event.start * 1.5, min(event.end * 1.5, scene.duration))
        else:
            assert question.context is None


def test_reader_sees_ambiguity(generated):
    """The checker above can fail: without its relation or its agent, many a sentence fits two moments."""
    plain = ambiguous = 0
    for scene, _, question in questions_of(generated, "test"):
        if question.meaning.relation in ("before", "after", "again"):
            main = dataclasses.replace(question.meaning, relation="", other=None)
            text = grammar.Writer(np.random.default_rng(0)).write(main).text
            plain += 1
            ambiguous += len(_answers(scene.events, text)) > 1
    assert plain > 50 and ambiguous == plain


# --- counts, splits, times ------------------------------------------------------------------------


def test_counts(generated):
    videos = {split: len(generated[split]) for split in SPLITS}
    assert videos == {"train": 900, **VIDEOS}
    queries = {split: len(questions_of(generated, split)) for split in SPLITS}
    # As README.md says.
    assert queries == COUNTS


def test_relations_are_a_good_quarter(generated):
    for split in ("train", "test"):
        relations = [q.meaning.relation for _, _, q in questions_of(generated, split)]
        assert 0.25 <= np.mean([r != "" for r in relations]) <= 0.32
        assert set(relations) == {"", *grammar.RELATIONS}


def test_ids_are_unique_and_a_video_has_one_split(generated):
    records = [scene_record(s, a, 0) for split in SPLITS for s, a in generated[split]]
    videos = [r["video"] for r in records]
    qids = [q["qid"] for r in records for q in r["queries"]]
    assert len(set(videos)) == len(videos)
    assert len(set(qids)) == len(qids)
    assert all(1 <= len(r["queries"]) <= 4 for r in records)


@pytest.mark.parametrize("split", SPLITS)
def test_timelines_and_times(generated, split):
    for scene, arrays in generated[split]:
        assert 24 <= scene.clips <= 40 and 4 <= len(scene.events) <= 8
        assert scene.clips * 1.5 - 1.5 < scene.duration < scene.clips * 1.5
        bounds = [0, *(t for e in scene.events for t in (e.start, e.end)), scene.clips]
        steps = np.diff(bounds)
        assert steps[1::2].min() >= 3 and steps[1::2].max() <= 9  # events
        assert steps[0::2].min() >= 0 and steps[0::2].max() <= 2  # gaps
        for question in scene.questions:
            assert 0 <= question.span[0] < question.span[1] <= scene.duration
        for name, shape in SHAPES.items():
            assert arrays[name].shape == (scene.clips, *shape[1:])
            assert arrays[name].dtype == np.float32 and np.isfinite(arrays[name]).all()


def _vocabulary(generated, split):
    return {w for _, _, q in questions_of(generated, split) for w in words_of(q.sentence.text)}


def test_novel_words_are_novel(generated):
    novel = grammar.novel_words()
    for split in SPLITS:
        if split != "test_novel_word":
            assert not novel & _vocabulary(generated, split)
    for _, _, question in questions_of(generated, "test_novel_word"):
        assert novel & set(words_of(question.sentence.text))
    # The other words of that split are known from training.
    assert _vocabulary(generated, "test_novel_word") - novel <= _vocabulary(generated, "train")


def test_novel_compositions_are_novel(generated):
    def pairs(split):
        return {(e.action, e.object) for scene, _ in generated[split] for e in scene.events}

    held_out = set(grammar.HELD_OUT)
    for split in SPLITS:
        if split != "test_novel_composition":
            assert not held_out & pairs(split)
    actions, objects = (set(names) for names in zip(*pairs("train")))
    for _, _, question in questions_of(generated, "test_novel_composition"):
        _, main, _ = _read(question.sentence.text)
        assert (main["action"], main["object"]) in held_out
        assert main["action"] in actions and main["object"] in objects
    assert _vocabulary(generated, "test_novel_composition") <= _vocabulary(generated, "train")


def test_shifted_positions_are_rare_in_training(generated):
    def middles(split):
        return np.array([sum(q.span) / 2 / scene.duration for scene, _, q in questions_of(generated, split)])

    assert middles("test_shifted_position").min() > 0.7
    # 30% of the time, less than half of that share of the moments.
    for split in ("train", "val", "test"):
        assert np.mean(middles(split) > 0.7) < 0.15


def test_train_videos_changes_no_test_video():
    (scene, arrays), *_ = generate(0, "test", 3)
    (same, same_arrays), *_ = generate(0, "test", 900)
    assert scene == same
    np.testing.assert_array_equal(arrays["rgb"], same_arrays["rgb"])
    assert len(list(generate(0, "train", 3))) == 3


# --- sentences ------------------------------------------------------------------------------------


def test_tree_and_chunks_point_at_their_words(generated):
    for split in SPLITS:
        for _, _, question in questions_of(generated, split):
            sentence, text = question.sentence, question.sentence.text
            assert text == text.lower() and text.endswith(".") and "  " not in text
            relation, main, other = _read(text)
            clauses = [main] if other is None else [main, other]
            verbs = [text[a:b].split() for a, b in sentence.verbs]
            nouns = [text[a:b] for a, b in sentence.nouns]
            actions = [VERB_OF[words[0], " ".join(words[1:])] for words in verbs]
            assert sorted(actions) == sorted(c["action"] for c in clauses)
            # Every noun of the sentence is a node, and the end of a chunk "a ..." or "the ...".
            assert sorted(nouns) == sorted(w for w in words_of(text) if w in NOUN_OF)
            for (start, end), noun in zip(sentence.static, nouns):
                assert re.fullmatch(rf"(a|an|the) {noun}", text[start:end])
            assert len(sentence.verbs) <= schema.MAX_VERBS and len(nouns) <= schema.MAX_NOUNS
            # The nouns below a verb are the parts of its clause, an agent that is not repeated included.
            for v, action in enumerate(actions):
                below = {NOUN_OF[nouns[n]] for verb, n in sentence.edges if verb == v}
                expected = [_nouns_of(c) for c in clauses if c["action"] == action]
                assert below in expected, text


def _nouns_of(clause):
    """The concepts of its nouns; a recipient is a noun for an agent."""
    kinds = {"agent": "agent", "object": "object", "recipient": "agent", "place": "place"}
    return {(kinds[part], name) for part, name in clause.items() if part in kinds and name is not None}


def test_tree_of_one_sentence():
    clause = grammar.Clause("person", "pick up", "cup", place="office")
    texts = (grammar.Writer(np.random.default_rng(i)).write(grammar.Meaning(clause)) for i in range(10_000))
    sentence = next(s for s in texts if s.text == "an individual picks up the cup in the office.")
    #                                              0  3          14       23  27  31 34  38
    assert sentence.verbs == [(14, 22)]
    assert sentence.nouns == [(3, 13), (27, 30), (38, 44)]
    assert sentence.static == [(0, 13), (23, 30), (34, 44)]
    assert sentence.edges == [(0, 1), (0, 0), (0, 2)]


# --- vectors --------------------------------------------------------------------------------------


def test_word_vectors(generated):
    words, rows = storyboard.word_vectors(storyboard_options("unused"))
    assert len(set(words)) == len(words) and rows.shape == (len(words), 50) and rows.dtype == np.float32
    for split in SPLITS:
        assert _vocabulary(generated, split) <= set(words)
    cosine = rows @ rows.T / 6.0**2  # every vector is as long as GloVe's are on average
    np.testing.assert_allclose(np.diag(cosine), 1.0, atol=1e-6)
    group = {w: name for name, members in grammar.word_groups().items() for w in members}
    content = [i for i, word in enumerate(words) if word in group]
    same = np.array([[group[words[i]] == group[words[j]] for j in content] for i in content])
    cosine = cosine[np.ix_(content, content)]
    assert cosine[same].min() > 0.8
    # Directions of groups are orthogonal; what is left are two own parts of length 0.33 each and their
    # shadows: rarely above 0.3, never near a synonym.
    assert np.abs(cosine[~same]).max() < 0.5
    assert np.abs(cosine[~same]).mean() < 0.1


def test_sentence_rowsfollow_meaning():
    world = vectors(0)

    def cosine(a, b):
        a, b = world.sentence(a), world.sentence(b)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    text = "a man opens the door."
    assert cosine(text, "the guy is unlatching a gate.") > 0.8
    assert cosine(text, "a girl washes the cup.") < 0.5
    # Function words do not count, and it is a bag of words.
    np.testing.assert_array_equal(world.sentence(text), world.sentence("the man opens a door."))


# --- the second language --------------------------------------------------------------------------


def test_the_second_language_says_the_same_in_other_words_and_another_order(generated):
    texts = {q.sentence.text for split in SPLITS for _, _, q in questions_of(generated, split)}
    words = vectors(0).words
    word_of = {translated_word(word): word for word in words}
    assert len(word_of) == len(words) and not set(word_of) & set(words)
    for text in texts:
        back = [word_of[word] for word in translate(text).removesuffix(".").split(" ")]
        assert back[::-1] == words_of(text)
    # By hand, letter by letter: d-z o-a o-a r-j, t-g h-s e-o, o-a p-l e-o n-m s-h, m-n a-i n-m, a-i.
    assert translate("a man opens the door.") == "zaaj gso alomh nim i."


def test_vectors_of_the_second_language_are_related_to_each_other_alone():
    words, rows = storyboard.word_vectors(storyboard_options("unused"))
    half = len(words) // 2
    assert [translated_word(word) for word in words[:half]] == words[half:]
    index = {word: i for i, word in enumerate(words[:half])}
    cosine = rows @ rows.T / 6.0**2
    for one, other in (("door", "gate"), ("opens", "opening")):
        i, j = index[one], index[other]
        assert cosine[i, j] > 0.8 and cosine[half + i, half + j] > 0.8
    # Random directions in 50 dimensions: a cosine has the standard deviation 1/sqrt(50) = 0.14.
    assert 0.1 < cosine[:half, half:].std() < 0.18


def test_subtitles_are_translated(generated):
    world, silent, met = vectors(0), 0, 0
    lines = {
        tuple(world.said(["the", word])): world.said(["the", word], translated=True)
        for noun in grammar.OBJECTS.values()
        for word in noun.words
    }
    for _, arrays in generated["val"]:
        for said, translated in zip(arrays["subtitles"], arrays["translated_subtitles"]):
            assert said.any() == translated.any()
            silent += not said.any()
            if tuple(said) in lines:
                np.testing.assert_array_equal(translated, lines[tuple(said)])
                met += 1
    assert met > 100 and silent > 100


# --- features -------------------------------------------------------------------------------------


def _nearest(table, row):
    names = list(table)
    return names[int(np.argmax([np.asarray(table[n]) @ row for n in names]))]


def _closest(table, slots):
    """The name whose vector is closest to any of the slots [O,D]."""
    names = list(table)
    rows = np.stack([table[n] for n in names])
    return names[int(np.argmin(np.linalg.norm(slots[:, None] - rows, axis=-1).min(0)))]


def test_modalities_tell_what_they_should(generated):
    """A nearest-vector classifier per modality; each hears or sees its own part of the event."""
    world = vectors(0)
    right = {name: [] for name in ("flow", "audio", "object", "user", "said")}
    middle_sound = {name: sound[1] for name, sound in world.sounds.items()}
    used = {(o, a): world.entities[o] + PHASE_GAIN * world.use[a] for a, o in grammar.PAIRS}
    using = {
        (g, a): world.entities[g] + PHASE_GAIN * world.pose[a]
        for g in world.appearance["agent"]
        for a in grammar.ACTIONS
    }
    naming = {
        o: np.stack([world.said(["the", word]) for word in noun.words]) for o, noun in grammar.OBJECTS.items()
    }
    quiet = []
    for scene, arrays in generated["test"]:
        for e in scene.events:
            middle = (e.start + e.end) // 2
            right["flow"].append(_nearest(world.motion, arrays["flow"][e.start : e.end].mean(0)) == e.action)
            sound = arrays["audio"][middle]
            if e.action in world.sounds:
                right["audio"].append(_nearest(middle_sound, sound) == e.action)
            else:
                quiet.append(np.linalg.norm(sound) < 0.75)
            slots = arrays["objects"][middle]
            right["object"].append(_closest(used, slots) == (e.object, e.action))
            right["user"].append(_closest(using, slots) == (e.agent, e.action))
            for t in range(e.start, e.end):
                said = arrays["subtitles"][t]
                if np.abs(said).sum() > 0:
                    heard = [o for o, lines in naming.items() if np.abs(lines - said).max(1).min() < 1e-5]
                    # At most one object, and never another than the one in use.
                    assert heard in ([], [e.object])
                    right["said"].append(heard != [])
    accuracy = {name: np.mean(values) for name, values in right.items()}
    # Chance is 1 in 13 actions, 7 sounds, 93 uses, 52 poses, 14 objects.
    assert accuracy["flow"] > 0.9 and accuracy["audio"] > 0.8, accuracy
    assert accuracy["object"] > 0.8 and accuracy["user"] > 0.8, accuracy
    # Half of the lines name the action, too, and some clips have small talk besides or instead.
    assert 0.3 < accuracy["said"] < 0.6, accuracy
    assert 0.8 < np.mean(quiet) < 1.0


def test_empty_slots_and_silence_are_zero_rows(generated):
    objects = np.concatenate([a["objects"] for _, a in generated["test"]])
    filled = np.abs(objects).sum(-1) > 0
    assert 0.1 < 1 - filled.mean() < 0.6
    assert filled.any(0).all()  # no slot is always empty
    said = np.concatenate([np.abs(a["subtitles"]).sum(-1) > 0 for _, a in generated["test"]])
    assert 0.1 < said.mean() < 0.6


# --- a good test bed ------------------------------------------------------------------------------

PARTS = ("agent", "action", "object", "recipient", "place")


_CELLS = np.array([(a, b + 1) for a in range(16) for b in range(a, 16)]) / 16  # the 16-cell 2D map


def _recall(spans, truth):
    return 100 * np.mean(iou(np.asarray(spans), truth) >= 0.5)


def _truth(questions):
    return np.array([np.asarray(q.span) / scene.duration for scene, _, q in questions])


def _decoded_spans(questions, parts):
    """Reads concepts off the clips by least squares, and takes the cell where all `parts` are seen."""
    world = vectors(0)
    names = [(kind, name) for kind, table in world.appearance.items() for name in table]
    decode = np.linalg.pinv(np.stack([world.appearance[kind][name] for kind, name in names]))
    spans = []
    for scene, arrays, question in questions:
        main = dataclasses.asdict(question.meaning.main)
        wanted = [(p, main[p]) for p in parts if main[p] not in (None, "person")]
        seen = arrays["rgb"] @ decode[:, [names.index(w) for w in wanted]]
        # Above zero where even the least visible concept is more there than not.
        evidence = np.concatenate([[0.0], np.cumsum(np.minimum(seen, 1.0).min(1) - 0.5)])
        at = np.interp(_CELLS, np.arange(len(evidence)) * 1.5 / scene.duration, evidence)
        spans.append(_CELLS[np.argmax(at[:, 1] - at[:, 0])])
    return spans


def test_trivial_answers_are_weak_and_the_whole_sentence_is_needed(generated):
    train, test = questions_of(generated, "train"), questions_of(generated, "test")
    truth = _truth(test)
    prior = _CELLS[np.argmax((iou(_CELLS[:, None], _truth(train)[None]) >= 0.5).mean(1))]
    assert _recall(prior[None], truth) < 22
    assert _recall(np.array([[0.0, 1.0]]), truth) < 10
    shifted = questions_of(generated, "test_shifted_position")
    assert _recall(prior[None], _truth(shifted)) < 5
    # Most moments have a good cell in a 16-cell map.
    assert np.mean(iou(_CELLS[None], truth[:, None]).max(1) >= 0.7) > 0.85

    plain = [entry for entry in test if not entry[2].meaning.relation]
    everything = _recall(_decoded_spans(plain, PARTS), _truth(plain))
    noun = _recall(_decoded_spans(plain, ("object",)), _truth(plain))
    verb = _recall(_decoded_spans(plain, ("action",)), _truth(plain))
    assert everything > 85
    assert noun < 55 and verb < 55


def test_a_bag_of_words_does_not_tell_who_gives(generated):
    """A man gives the box to the woman, and she gives it back to him: the words are the same."""

    def has_reverse(scene, question):
        main = question.meaning.main
        return any(
            (e.agent, e.recipient) == (main.recipient, main.agent)
            and (e.action, e.object) == (main.action, main.object)
            for e in scene.events
        )

    plain = [entry for entry in questions_of(generated, "test") if not entry[2].meaning.relation]
    asked = [(s, a, q) for s, a, q in plain if has_reverse(s, q)]
    assert len(asked) > 20
    roles = _recall(_decoded_spans(asked, PARTS), _truth(asked))
    bag = _recall(_decoded_spans(asked, ("action", "object", "place")), _truth(asked))
    # The bag finds one of the two or more.
    assert roles > 85 and bag < 60
