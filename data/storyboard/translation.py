"""The second language of storyboard: the words of a sentence by other words, from the last to the first."""

import re

_LETTERS = str.maketrans("aeioubcdfghjklmnpqrstvwxyz", "iouaewxzvtsrqpnmlkjhgfdcyb")


def translated_word(word: str) -> str:
    """The word for a word: another letter for each letter, so that no two words become one.

    >>> translated_word("door"), translated_word("open")
    ('zaaj', 'alom')
    """
    return word.translate(_LETTERS)


def translate(text: str) -> str:
    """The sentence in the second language, which has no commas; it says what the sentence says.

    >>> translate("a man opens the door.")
    'zaaj gso alomh nim i.'
    """
    return " ".join(translated_word(word) for word in reversed(re.findall("[a-z]+", text))) + "."
