"""A hotel's channel manager: its database, its sales channels, and what must be equal between the two."""
