"""The file engine: one process that owns the SQLite file, its wire and its clients."""
