"""Stage three: verification, retrieval, localisation, their controls, search and the report.

Names are loaded on first use, so that importing the package stays light.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Answer": "search",
    "CheckReport": "checking",
    "Checker": "checking",
    "Comparison": "checking",
    "Embedded": "embed",
    "Filter": "search",
    "Localisation": "localisation",
    "Matching": "retrieval",
    "Results": "results",
    "Retrieval": "retrieval",
    "SearchIndex": "search",
    "Verification": "verification",
    "add_videos": "search",
    "build_index": "search",
    "check": "checking",
    "compare": "checking",
    "evaluate": "evaluation",
    "fit_checker": "checking",
    "localise": "localisation",
    "matching": "retrieval",
    "over_seeds": "seeds",
    "remove_videos": "search",
    "retrieve": "retrieval",
    "verify": "verification",
    "write_report": "report",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
