"""A move under traffic: everything that was sent must be somewhere once."""
