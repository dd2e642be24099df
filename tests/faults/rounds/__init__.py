"""Rounds of faults of the servers under Noria: RabbitMQ, its cluster, PostgreSQL and the wires to them."""
