"""Other systems that do the same work on this machine, and the limit of what any system of Noria's shape could do.

`*_application.py` and `sender.py` run in the peers' own environment, .venv-peers, which has neither Noria nor what
Noria needs; so they import nothing of this package but what needs the standard library alone.
"""
