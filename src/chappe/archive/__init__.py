"""What happened, kept and read again."""
