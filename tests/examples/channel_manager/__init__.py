"""The tests of the channel manager."""
