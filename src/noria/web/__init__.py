"""How Noria is reached over HTTP."""
