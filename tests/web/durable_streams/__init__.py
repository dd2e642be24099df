"""The public conformance suite of Durable Streams, held against `GET /events`."""
