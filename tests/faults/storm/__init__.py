"""The kill storm: real processes killed and frozen at random, and a ledger that decides what was lost."""
