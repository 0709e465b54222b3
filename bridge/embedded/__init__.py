"""Real servers as child processes: Triton, Redis, RabbitMQ, and the workers beside them.

The law of this room: everything listens on 127.0.0.1 on a free port, everything that is
written lies in one state folder, and when the owner ends, however it ends, nothing is left: no
process, port, shared memory or file. A server starts whole or not at all, with an error that
says what to do. No torch and no taskiq is imported here, and gRPC only by `triton_channel`.
"""
