"""Scoring by meaning (extra `embeddings`): a table of vectors, one per token, that the user gives. Nothing is fetched.

A text's vector is the mean of its tokens' vectors: no network runs, and a thousand items take a tenth of a second. It is made when a
question weighs the item for the first time, and kept with the context under the name of the table: another table, and it is made anew.
The similarity to the question is mixed with the score of another scorer, both scaled to 0…1 (min-max): raw sums of the two do badly."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aios_sidecar.context.errors import InvalidWindow
from aios_sidecar.context.formats.base import text
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.scoring.base import Known, Scored, Scorer
from aios_sidecar.context.scoring.query import QueryScorer
from aios_sidecar.context.tokens.errors import UnknownTokenizer

if TYPE_CHECKING:
    import numpy

WEIGHT_PERCENT: Final = 20
"""Of similarity in the mixed score, where a strategy does not say (docs/design/0007-context.md)."""
CANDIDATES: Final = 4096
"""The best so many of the other scorer are weighed anew; in a smaller log that is every item."""
TEXT_LENGTH: Final = 4096
"""Characters of an item that its vector is made of: some thousand tokens, beyond which a mean says little."""
ROWS_BYTES: Final = 8 << 20
"""Of one context's vectors in memory, at least those of one question: 16,384 of 256 numbers. The others are read from the context."""


def scorer_for(weight_percent: int | None, table: "StaticTable | None") -> Scorer:
    """What answers questions where similarity has this weight; None: as much as helps, where there is a table. Raises InvalidWindow."""
    if weight_percent and table is None:
        raise InvalidWindow(
            f"strategy.embedding must be 0 or absent, not {weight_percent}: this gateway was given no table of vectors"
            " (gateway.embeddingsVolume of the chart)"
        )
    weight = WEIGHT_PERCENT if weight_percent is None else weight_percent
    return QueryScorer() if table is None or weight == 0 else EmbeddingScorer(QueryScorer(), table, weight / 100)


class StaticTable:
    """Vectors of texts by a table of token vectors."""

    def __init__(self, tokenizer: Any, table: "numpy.ndarray[Any, Any]", name: str) -> None:
        self._tokenizer = tokenizer
        self._table = table
        self.name = name
        """Of the model: another table, or another tokenizer, has another."""

    @property
    def row_bytes(self) -> int:
        """Of one vector as it is kept: numbers of 16 bits."""
        return 2 * int(self._table.shape[1])

    @classmethod
    def load(cls, directory: Path) -> "StaticTable":
        """From `tokenizer.json` and the one `.safetensors` file with one matrix, as static embedding models are published.

        Raises UnknownTokenizer, which names the file and what must be true of it.
        """
        try:
            import numpy
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as missing:
            raise UnknownTokenizer(f"{directory} needs the package {missing.name}, which is not installed (extra embeddings)") from None
        weights = sorted(directory.glob("*.safetensors"))
        if len(weights) != 1 or not (directory / "tokenizer.json").is_file():
            raise UnknownTokenizer(f"{directory} must have tokenizer.json and one .safetensors file")
        try:
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            matrices = [matrix for matrix in load_file(weights[0]).values() if matrix.ndim == 2]
        except Exception as problem:  # noqa: BLE001  both libraries raise plain exceptions for faults of a file
            raise UnknownTokenizer(f"{directory} can't be read: {problem}") from None
        if len(matrices) != 1 or matrices[0].shape[0] < tokenizer.get_vocab_size():
            raise UnknownTokenizer(f"{weights[0]} must have one matrix with a row for each of {tokenizer.get_vocab_size()} tokens")
        if not numpy.isfinite(matrices[0]).all():
            raise UnknownTokenizer(f"{weights[0]} must have finite numbers only")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        digest = hashlib.sha256()
        for path in (directory / "tokenizer.json", weights[0]):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(tokenizer, matrices[0], f"static-{digest.hexdigest()[:32]}")

    def vectors(self, texts: Sequence[str]) -> "numpy.ndarray[Any, Any]":
        """One row of length 1 for each text; zeros for a text without tokens."""
        import numpy

        rows = numpy.zeros((len(texts), self._table.shape[1]), dtype=numpy.float32)
        for row, encoding in zip(rows, self._tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            if encoding.ids:
                row[:] = self._table[encoding.ids].astype(numpy.float32).mean(axis=0)
        lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
        rows /= numpy.where(lengths > 0, lengths, 1)
        return rows


class EmbeddingScorer:
    """Another scorer, mixed with similarity."""

    def __init__(self, other: Scorer, table: StaticTable, share: float) -> None:
        self._other = other
        self._table = table
        self._share = share

    def score(self, question: str, reader: Reader, known: Known, session: str | None) -> Iterable[Scored]:
        import numpy

        found = heapq.nsmallest(CANDIDATES, self._other.score(question, reader, known, session), key=lambda scored: -scored.score)
        if not found:
            return []
        rows = self._rows(reader, known, [scored.seq for scored in found])
        alike = rows @ self._table.vectors([question])[0]
        scores = numpy.array([scored.score for scored in found])
        # The other scorer's spread is about 1 where it found something; where it did not, its noise is not blown up to that.
        near, alike = _scaled(scores, 1.0), _scaled(alike)
        mixed = (1 - self._share) * near + self._share * alike
        order = numpy.lexsort((-numpy.array([scored.seq for scored in found]), -mixed))
        return [self._mixed(found[index], float(mixed[index]), float(alike[index]), float(near[index])) for index in order]

    def _mixed(self, scored: Scored, score: float, alike: float, near: float) -> Scored:
        scale = (1 - self._share) * near / scored.score if scored.score else 0.0
        values = tuple(value * scale for value in scored.values)
        return Scored(scored.seq, score, (*values, self._share * alike), (*scored.names, "meaning"))

    def _rows(self, reader: Reader, known: Known, seqs: Sequence[int]) -> "numpy.ndarray[Any, Any]":
        """Of each item a vector of length 1: known, kept with the context, or made now."""
        import numpy

        table, rows = self._table, known.vectors.under(self._table.name)
        missing = [seq for seq in seqs if seq not in rows]
        if (len(rows) + len(missing)) * table.row_bytes > ROWS_BYTES:
            rows.clear()
            missing = list(seqs)
        for seq, value in reader.vectors(table.name, missing).items():
            if len(value) == table.row_bytes:
                rows[seq] = numpy.frombuffer(value, dtype="<f2")
        items = reader.by_seq([seq for seq in missing if seq not in rows])
        for item, row in zip(items, table.vectors([text(item)[:TEXT_LENGTH] for item in items]).astype("<f2"), strict=True):
            rows[item.seq] = row
            known.vectors.new[item.seq] = row.tobytes()
        nothing = numpy.zeros(table.row_bytes // 2, dtype="<f2")
        return numpy.nan_to_num(numpy.stack([rows.get(seq, nothing) for seq in seqs]).astype(numpy.float32))


def _scaled(values: "numpy.ndarray[Any, Any]", least_spread: float = 0.0) -> "numpy.ndarray[Any, Any]":
    low, spread = values.min(), max(values.max() - values.min(), least_spread)
    return (values - low) / spread if spread > 0 else values * 0
