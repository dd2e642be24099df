"""PostgreSQL by itself: messages are rows, claimed by `skip locked`, for any number of hosts."""
