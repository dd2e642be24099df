"""What is remembered beside RabbitMQ, by PostgreSQL."""
