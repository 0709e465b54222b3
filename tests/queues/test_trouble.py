"""What is told of a queue that cannot be used; no server is needed."""

from bridge.queues.trouble import rabbitmq_trouble


def test_a_rabbitmq_that_hangs_is_said_not_to_answer():
    said = str(rabbitmq_trouble(TimeoutError(), "amqp://broker:5672/%2F"))
    assert "TimeoutError: no answer in time" in said
    assert "TimeoutError: 5 s" in str(rabbitmq_trouble(TimeoutError("5 s"), "amqp://broker:5672"))
