"""Rounds of faults of the servers under Chappe: RabbitMQ, its cluster, PostgreSQL and the wires to them."""
