// A program that knows amqplib, RabbitMQ and JSON, and nothing of Chappe: does what is told on stdin, prints what it consumes.
'use strict';

const fs = require('node:fs');
const amqplib = require('amqplib');

function written(letter) {
  const [year, month, day] = letter.day;
  const date = new Date(Date.UTC(year, month - 1, day)).toISOString().slice(0, 10);
  return JSON.stringify({ ...letter, at: new Date(letter.at), day: date });
}

function read(body) {
  const letter = JSON.parse(body);
  const day = new Date(letter.day);
  return { ...letter, at: new Date(letter.at).getTime(), day: [day.getUTCFullYear(), day.getUTCMonth() + 1, day.getUTCDate()] };
}

function named(properties) {
  const names = { message_id: 'messageId', correlation_id: 'correlationId' };
  return Object.fromEntries(Object.entries(properties).map(([name, value]) => [names[name] || name, value]));
}

async function consume(channel, queue, count) {
  await new Promise((resolve) => {
    channel.consume(queue, (message) => {
      const { fields, properties, content } = message;
      console.log(JSON.stringify({
        letter: read(content.toString()),
        body: content.toString(),
        exchange: fields.exchange,
        key: fields.routingKey,
        type: properties.type,
        message_id: properties.messageId,
        content_type: properties.contentType,
        timestamp: properties.timestamp,
      }));
      channel.ack(message);
      count -= 1;
      if (count === 0) resolve();
    });
  });
}

async function main() {
  const told = JSON.parse(fs.readFileSync(0, 'utf8'));
  const connection = await amqplib.connect(told.url);
  const channel = await connection.createConfirmChannel();
  for (const { name, kind, durable, auto_delete: autoDelete, arguments: given } of told.exchanges) {
    await channel.assertExchange(name, kind, { durable, autoDelete, arguments: given });
  }
  for (const { name, durable, auto_delete: autoDelete, arguments: given, bindings } of told.queues) {
    await channel.assertQueue(name, { durable, autoDelete, arguments: given });
    for (const [exchange, key] of bindings) await channel.bindQueue(name, exchange, key);
  }
  for (const { exchange, key, letter, body, properties } of told.publish) {
    channel.publish(exchange, key, Buffer.from(body === undefined ? written(letter) : body), named(properties));
  }
  await channel.waitForConfirms();
  if (told.consume) await consume(channel, told.consume.queue, told.consume.count);
  await channel.close();
  await connection.close();
}

main();
