"""The tables of a results database. docs/results.md shows them to people who ask in SQL."""

MARK = 0x62697264
"""In SQLite's application_id: the database is one of ours ("bird")."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE results (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            task TEXT NOT NULL,
            suite TEXT NOT NULL,
            model TEXT NOT NULL,
            classifier TEXT NOT NULL,
            n_train INTEGER,
            seed INTEGER NOT NULL,
            layer INTEGER,
            metric TEXT NOT NULL,
            seconds REAL NOT NULL,
            scores TEXT,
            experiment TEXT NOT NULL,
            counts TEXT NOT NULL,
            notes TEXT NOT NULL,
            provenance TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE metrics (
            result INTEGER NOT NULL REFERENCES results (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            value REAL,
            low REAL,
            high REAL,
            PRIMARY KEY (result, name)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE per_class (
            result INTEGER NOT NULL REFERENCES results (id) ON DELETE CASCADE,
            metric TEXT NOT NULL,
            class TEXT NOT NULL,
            value REAL,
            PRIMARY KEY (result, metric, class)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE claims (
            key TEXT PRIMARY KEY,
            number INTEGER NOT NULL,
            what TEXT NOT NULL,
            host TEXT NOT NULL,
            place TEXT NOT NULL,
            pid INTEGER NOT NULL,
            started TEXT NOT NULL,
            since TEXT NOT NULL,
            token TEXT NOT NULL,
            renewed REAL NOT NULL
        ) STRICT
        """,
        """
        CREATE VIEW headlines AS
            SELECT suite, task, model, classifier, n_train, layer, seed, metric, value, low, high, results.id AS result
            FROM results JOIN metrics ON metrics.result = results.id AND metrics.name = results.metric
        """,
    ),
)
"""Statements that lead from one version (SQLite's user_version) to the next. What has been released stays as it is."""

COLUMNS = ("key", "task", "suite", "model", "classifier", "n_train", "seed", "layer", "metric", "seconds", "scores")
JSON_COLUMNS = ("experiment", "counts", "notes", "provenance")
