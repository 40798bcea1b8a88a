"""The card of an architecture: what a reader must know before trusting its numbers, said once.

Every file of this folder has one, `CARD`, at its top. README, documentation, `--mode=models`
and tests read it.
"""

import dataclasses

FAMILIES = (
    "ranking",  # candidate moments are scored
    "span",  # start and end are predicted as positions
    "regression",  # start and end are predicted as numbers
    "set prediction",  # a decoder's slots are matched with moments
    "reinforcement learning",
    "reconstruction",  # the moment from which the sentence can be completed
    "corpus",  # finds the video too
)
SUPERVISION = (
    "full",
    "weak",  # sentences and their videos, without moments
    "none",  # nothing is learned from moments or sentences
)


@dataclasses.dataclass(frozen=True)
class Card:
    """Facts of an architecture: what it is, where it is from, and what was verified.

    Attributes:
      title: title of the paper.
      authors: family names, in the order of the paper; 'Zhang et al.' is made of them.
      venue: such as 'AAAI'.
      year: of the venue.
      family: one of `FAMILIES`.
      kind: what distinguishes it within its family, a few words: '2D map', 'sliding windows'.
      supervision: one of `SUPERVISION`.
      features: the features of the paper, for readers: 'VGG, C3D; GloVe'.
      official_code: 'owner/name@commit (framework)', or '' where nobody published any.
      equations: numbers of the equations of the paper that the file implements; each is named in the file as
        'Eq. n' at the line that computes it.
      sections: sections of the paper likewise, as 'Section n', of a paper that numbers no equations.
      ours: choices that the paper and the official code leave open, or where we depart from them; a whole
        sentence each.
      verified: what was compared, with what, and how close; a whole sentence each.
    """

    title: str
    authors: tuple[str, ...]
    venue: str
    year: int
    family: str
    kind: str
    supervision: str
    features: str
    official_code: str = ""
    equations: tuple[int, ...] = ()
    sections: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises ValueError for a family or a supervision that is none of the known ones."""
        for field, known in (("family", FAMILIES), ("supervision", SUPERVISION)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; it must be one of {', '.join(known)}.")

    @property
    def citation(self) -> str:
        """Such as 'Zhang et al., AAAI 2020'; two authors are both named."""
        names = {1: self.authors[0], 2: " and ".join(self.authors[:2])}
        return f"{names.get(len(self.authors), f'{self.authors[0]} et al.')}, {self.venue} {self.year}"
