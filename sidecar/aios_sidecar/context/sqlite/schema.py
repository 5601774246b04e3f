"""The tables of one agent's file, and how it is opened."""

import sqlite3
from pathlib import Path
from typing import Final

from aios_sidecar.context.errors import Damaged, Unwritable
from aios_sidecar.context.fulltext import TOKENIZER
from aios_sidecar.context.items import Kind

KINDS: Final = tuple(Kind)
"""By their numbers in the tables."""
APPLICATION_ID: Final = 0x61496F73
"""In the file's header: it is one of ours."""
FORMAT: Final = 3
"""Of the tables below. A file of a later format is refused, not guessed at; one of an earlier format becomes this one when it is opened."""
PAGE_BYTES: Final = 4096

VECTORS: Final = """CREATE TABLE vectors (item INTEGER PRIMARY KEY, name TEXT NOT NULL, value BLOB NOT NULL)"""
CALLS: Final = """CREATE INDEX items_call ON items (call_id, session, kind, seq) WHERE call_id IS NOT NULL"""
TABLES: Final = (
    """CREATE TABLE about (last_seq INTEGER NOT NULL, totals TEXT NOT NULL)""",
    """CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, items INTEGER NOT NULL,
       first INTEGER NOT NULL, last INTEGER NOT NULL, time INTEGER NOT NULL, parent INTEGER, parent_last INTEGER)""",
    """CREATE TABLE items (seq INTEGER PRIMARY KEY, session INTEGER NOT NULL, time INTEGER NOT NULL, role INTEGER NOT NULL,
       kind INTEGER NOT NULL, bytes INTEGER NOT NULL, parts INTEGER NOT NULL, content TEXT NOT NULL, author TEXT, call_id TEXT,
       derived TEXT, labels TEXT, tokens TEXT, sum INTEGER)""",
    """CREATE INDEX items_session ON items (session, seq)""",
    CALLS,
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
    VECTORS,
    f"""CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}')""",
)
"""`items` holds what is there; what was erased or has gone by retention leaves only `annotations` behind. `sum` is the item's checksum
(`sums`); items that a file of format 1 brought have none. `marks` is what annotations say now. `vectors` has one vector of an item at
most, by the model that `name` stands for. `words` keeps no text of its own (content=''): an entry is removed by giving FTS5 the text anew.
`about` has one row."""


UPGRADES: Final = {
    1: ("ALTER TABLE items ADD COLUMN sum INTEGER", "DROP TABLE vectors", VECTORS),
    2: ("DROP INDEX items_call", CALLS),
}
"""From each format to the next. Vectors are derived, and nothing wrote any in format 1."""


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
    connection = _connect(path, "rw")
    try:
        while (found := _format(connection, path)) in UPGRADES:
            connection.execute("BEGIN IMMEDIATE")
            for statement in UPGRADES[found]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {found + 1}")
            connection.execute("COMMIT")
        return _checked(connection, path)
    except BaseException:
        connection.close()
        raise


def reader(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that never writes. Beside a writer it needs mode "rw": the right to write their shared memory."""
    connection = _connect(path, mode)
    try:
        _checked(connection, path).execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _checked(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    found = _format(connection, path)
    if found > FORMAT:
        raise Unwritable(f"{path.name} has format {found}, and this program reads format {FORMAT}: it must be as new as the file")
    if found < FORMAT:
        raise Unwritable(f"{path.name} has format {found}, and becomes format {FORMAT} once the disk can be written")
    return connection


def _format(connection: sqlite3.Connection, path: Path) -> int:
    application, version = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise Damaged(f"{path.name} is no context: its application id is {application:#x}")
    return version


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
