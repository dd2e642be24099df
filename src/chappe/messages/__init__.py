"""What travels: commands and events, their capabilities, and the envelope around them."""
