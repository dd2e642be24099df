"""Who handles a message: a registry and a fold over middleware."""
