"""What happens around a message, one file for each concern."""
