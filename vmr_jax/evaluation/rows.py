"""The rows of a table of results: their kinds, and the names of those that stand beside every run.

A row of results.json is {"name", "kind", "metrics"}, `kind` one of `KINDS`; a run's own has "intervals" too, a
published one its "source". That of a sanity check has "lost": metric -> [low, high], the 95% interval over
videos, paired, of what the run loses by it.
"""

KINDS = ("run", "sanity", "trivial", "published")
SANITY = {"blind": "blind (no video)", "shuffled": "shuffled video"}  # check -> name of its row
WHOLE_VIDEO, PRIOR, RANDOM = TRIVIAL = ("whole video", "best span of the training prior", "random span")
