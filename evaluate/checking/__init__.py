"""Is a recording as its script? Steps missing, out of order, repeated or added; and two recordings compared.

`edits` is the evidence, `likeness` what it is taken from, `checker` and `fitting` make probabilities of it,
`check` and `report` say what was found, `faults` and `scoring` measure it, `comparison` compares two videos.
"""

from .check import check
from .checker import Checker
from .comparison import Comparison, compare
from .fitting import fit_checker
from .report import CheckReport

__all__ = ["CheckReport", "Checker", "Comparison", "check", "compare", "fit_checker"]
