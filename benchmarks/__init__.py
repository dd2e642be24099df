"""What Chappe and other systems do on this machine: `make bench`, or `python -m benchmarks --help`.

Every measurement is made with real processes, in its own folder, and by the means that a user has.
"""
