<?php
// A program that knows php-amqplib, RabbitMQ and JSON, and nothing of Chappe: does what is told on stdin, prints what it consumes.
declare(strict_types=1);

require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

function written(array $letter): string
{
    $at = DateTimeImmutable::createFromFormat('U.v', sprintf('%d.%03d', intdiv($letter['at'], 1000), $letter['at'] % 1000));
    $letter['at'] = $at->setTimezone(new DateTimeZone('Europe/Zurich'))->format(DateTimeInterface::RFC3339_EXTENDED);
    $letter['day'] = (new DateTimeImmutable())->setDate(...$letter['day'])->format('Y-m-d');
    return json_encode($letter, JSON_THROW_ON_ERROR);
}

function read(string $body): array
{
    $letter = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
    $letter['at'] = (int) (new DateTimeImmutable($letter['at']))->format('Uv');
    $letter['day'] = array_map('intval', explode('-', (new DateTimeImmutable($letter['day']))->format('Y-m-d')));
    return $letter;
}

function properties(array $given): array
{
    if (isset($given['headers'])) {
        $given['application_headers'] = new AMQPTable($given['headers']);
        unset($given['headers']);
    }
    return ['content_type' => 'application/json', 'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT] + $given;
}

function consume(AMQPChannel $channel, string $queue, int $count): void
{
    $channel->basic_consume($queue, '', false, false, false, false, function (AMQPMessage $message) use (&$count): void {
        $got = fn (string $name) => $message->has($name) ? $message->get($name) : null;
        echo json_encode([
            'letter' => read($message->getBody()),
            'body' => $message->getBody(),
            'exchange' => $message->getExchange(),
            'key' => $message->getRoutingKey(),
            'type' => $got('type'),
            'message_id' => $got('message_id'),
            'content_type' => $got('content_type'),
            'timestamp' => $got('timestamp'),
        ], JSON_THROW_ON_ERROR), "\n";
        $message->ack();
        $count -= 1;
    });
    while ($count > 0) {
        $channel->wait(null, false, 30);
    }
}

$told = json_decode(stream_get_contents(STDIN), true, 512, JSON_THROW_ON_ERROR);
$url = parse_url($told['url']);
$connection = new AMQPStreamConnection($url['host'], $url['port'], $url['user'], $url['pass'], rawurldecode(substr($url['path'], 1)) ?: '/');
$channel = $connection->channel();
$channel->confirm_select();
foreach ($told['exchanges'] as $exchange) {
    $channel->exchange_declare(
        $exchange['name'], $exchange['kind'], false, $exchange['durable'], $exchange['auto_delete'], false, false,
        new AMQPTable($exchange['arguments'])
    );
}
foreach ($told['queues'] as $queue) {
    $channel->queue_declare(
        $queue['name'], false, $queue['durable'], false, $queue['auto_delete'], false, new AMQPTable($queue['arguments'])
    );
    foreach ($queue['bindings'] as [$exchange, $key]) {
        $channel->queue_bind($queue['name'], $exchange, $key);
    }
}
foreach ($told['publish'] as $message) {
    $body = $message['body'] ?? written($message['letter']);
    $channel->basic_publish(new AMQPMessage($body, properties($message['properties'])), $message['exchange'], $message['key']);
}
$channel->wait_for_pending_acks(10);
if ($told['consume'] !== null) {
    consume($channel, $told['consume']['queue'], $told['consume']['count']);
}
$channel->close();
$connection->close();
