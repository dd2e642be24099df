"""Faults brought on by signals, disks and networks, and plants that prove that they would be seen."""
