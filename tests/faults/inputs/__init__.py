"""The table of wrong inputs: what is sent, through which door, and what answer it gets."""
