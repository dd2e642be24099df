"""Noria: durable commands and events."""
