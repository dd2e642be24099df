"""The tests of the example applications."""
