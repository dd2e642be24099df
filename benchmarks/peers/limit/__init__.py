"""The limit: how fast messages can move through one process that owns the SQLite file, if it does nothing else.

It commits and syncs as Chappe's engine does, groups what arrived in one turn into one transaction, and moves messages from
one table to another by ranges. It has no names, routes, keys, priorities, delays, retries, dead letters or reconnection:
what Chappe needs more than it is what those cost.

Over RabbitMQ it is a plain socket with bytes that were made before: what nobody can be faster than on this machine.
"""
