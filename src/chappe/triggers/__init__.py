"""What starts messages by itself."""
