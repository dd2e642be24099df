"""Other systems that do the same work on this machine, and the limit of what any system of Chappe's shape could do.

`*_application.py` and `sender.py` run in the peers' own environment, .venv-peers, which has neither Chappe nor what
Chappe needs; so they import nothing of this package but what needs the standard library alone.
"""
