"""The embedded engine: the one process that owns the SQLite file."""
