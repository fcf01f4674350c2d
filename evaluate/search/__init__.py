"""Search: an index over videos, their moments and steps; texts, scripts, videos and moments as queries.

`build` makes and changes an index, `index` opens and searches it, `ordered` re-ranks by the order of the
steps, `kinds` holds FAISS's exact and approximate indices, `fleet` searches shards by dask workers.
"""

from .answers import Answer, Filter, Matched
from .build import add_videos, build_index, remove_videos
from .found import grow
from .index import SearchIndex, search
from .kinds import load_faiss
from .vectors import window_means

__all__ = [
    "Answer", "Filter", "Matched", "SearchIndex", "add_videos", "build_index", "grow", "load_faiss",
    "remove_videos", "search", "window_means",
]  # fmt: skip
