"""How Chappe is reached over HTTP."""
