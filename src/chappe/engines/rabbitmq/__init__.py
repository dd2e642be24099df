"""RabbitMQ, spoken to by pika."""
