"""What keeps the processes of one host running."""
