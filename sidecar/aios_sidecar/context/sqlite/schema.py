"""The tables of one agent's file, and how it is opened."""

import sqlite3
from pathlib import Path
from typing import Final

from aios_sidecar.context.errors import Damaged, Unwritable
from aios_sidecar.context.fulltext import TOKENIZER

APPLICATION_ID: Final = 0x61496F73
"""In the file's header: it is one of ours."""
FORMAT: Final = 1
"""Of the tables below. A file of a later format is refused, not guessed at."""
PAGE_BYTES: Final = 4096

TABLES: Final = (
    """CREATE TABLE about (last_seq INTEGER NOT NULL, totals TEXT NOT NULL)""",
    """CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, items INTEGER NOT NULL,
       first INTEGER NOT NULL, last INTEGER NOT NULL, time INTEGER NOT NULL, parent INTEGER, parent_last INTEGER)""",
    """CREATE TABLE items (seq INTEGER PRIMARY KEY, session INTEGER NOT NULL, time INTEGER NOT NULL, role INTEGER NOT NULL,
       kind INTEGER NOT NULL, bytes INTEGER NOT NULL, parts INTEGER NOT NULL, content TEXT NOT NULL, author TEXT, call_id TEXT,
       derived TEXT, labels TEXT, tokens TEXT)""",
    """CREATE INDEX items_session ON items (session, seq)""",
    """CREATE INDEX items_call ON items (call_id) WHERE call_id IS NOT NULL""",
    """CREATE TABLE annotations (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, what TEXT NOT NULL, seqs TEXT NOT NULL, value)""",
    """CREATE TABLE marks (seq INTEGER PRIMARY KEY, pinned INTEGER NOT NULL DEFAULT 0, importance REAL, times INTEGER NOT NULL DEFAULT 0,
       last TEXT)""",
    """CREATE INDEX marks_pinned ON marks (seq) WHERE pinned""",
    """CREATE TABLE links (source INTEGER, item INTEGER, PRIMARY KEY (source, item)) WITHOUT ROWID""",
    """CREATE TABLE labels (key TEXT, value TEXT, item INTEGER, PRIMARY KEY (key, value, item)) WITHOUT ROWID""",
    """CREATE TABLE keys (key TEXT PRIMARY KEY, digest BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, time INTEGER NOT NULL)
       WITHOUT ROWID""",
    """CREATE INDEX keys_time ON keys (time)""",
    """CREATE TABLE usage (id INTEGER PRIMARY KEY, model TEXT NOT NULL, time INTEGER NOT NULL, messages INTEGER NOT NULL,
       bytes TEXT NOT NULL, tokens INTEGER NOT NULL)""",
    """CREATE INDEX usage_model ON usage (model, id)""",
    """CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE vectors (name TEXT, item INTEGER, value BLOB NOT NULL, PRIMARY KEY (name, item)) WITHOUT ROWID""",
    f"""CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}')""",
)
"""`items` holds what is there; what was erased or has gone by retention leaves only `annotations` behind. `marks` is what annotations say
now. `words` keeps no text of its own (content=''): an entry is removed by giving FTS5 the text anew. `about` has one row."""


def create(path: Path, totals: str) -> None:
    """An empty context with these `Totals` is at `path`, durably. Raises sqlite3.Error and OSError."""
    connection = _connect(path, "rwc")
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO about VALUES (0, ?)", (totals,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def writer(path: Path) -> sqlite3.Connection:
    """A connection that may write. Raises Damaged when the file is none of ours, sqlite3.Error and OSError."""
    return _checked(path, "rw")


def reader(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that never writes. Beside a writer it needs mode "rw": the right to write their shared memory."""
    connection = _checked(path, mode)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _checked(path: Path, mode: str) -> sqlite3.Connection:
    connection = _connect(path, mode)
    try:
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if found[0] != APPLICATION_ID:
            raise Damaged(f"{path.name} is no context: its application id is {found[0]:#x}")
        if found[1] != FORMAT:
            raise Unwritable(f"{path.name} has format {found[1]}, and this program reads format {FORMAT}: it must be as new as the file")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_quoted(path)}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=64
    )
    connection.execute("PRAGMA temp_store = MEMORY")  # nothing of a context in files beside its own
    connection.execute("PRAGMA cache_size = -1024")
    connection.execute(f"PRAGMA journal_size_limit = {8 << 20}")
    return connection


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
