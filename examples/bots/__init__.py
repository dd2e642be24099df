"""Small programs that talk with each other over one exchange, whose messages are kept for a month."""
