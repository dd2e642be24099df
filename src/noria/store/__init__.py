"""What is remembered beside the broker."""
