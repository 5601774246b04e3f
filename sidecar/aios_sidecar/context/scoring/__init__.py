"""What is likely to matter: without a question (`importance`), and for one (`query`; `embeddings` mixes in meaning, where a table is
given).

No language model. A scorer is a small interface: it is given a question and the log, and says which items to show, best first, with the
parts that their scores consist of."""

from aios_sidecar.context.scoring.base import Scored, Scorer
from aios_sidecar.context.scoring.query import QueryScorer

__all__ = ["QueryScorer", "Scored", "Scorer"]
