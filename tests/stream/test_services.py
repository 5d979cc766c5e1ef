"""The services that other tests rest on are there and are what they say."""

import redis
from kafka import KafkaConsumer


def test_kafka_answers(kafka_server):
    consumer = KafkaConsumer(bootstrap_servers=kafka_server, bootstrap_timeout_ms=20000)
    assert consumer.topics() is not None
    consumer.close()


def test_valkey_keeps_what_it_acknowledged(redis_server):
    with redis.Redis.from_url(redis_server) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "test:services", "1") == b"OK"


def test_debians_redis_speaks_tls_and_knows_users(redis_tls_server):
    with redis.Redis.from_url(redis_tls_server.url) as client:
        assert client.ping()
