"""What runs messages."""
