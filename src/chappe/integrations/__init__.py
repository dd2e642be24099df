"""Who Chappe lives with; each is importable alone."""
