"""The Kafka transport: what the rest of the house uses of it."""

from stream.kafka_admin import LagMeter, TopicSpec, ensure_topics, group_lag, topic_id
from stream.kafka_sink import KafkaSink
from stream.kafka_source import KafkaSource

__all__ = ["KafkaSink", "KafkaSource", "LagMeter", "TopicSpec", "ensure_topics", "group_lag", "topic_id"]
