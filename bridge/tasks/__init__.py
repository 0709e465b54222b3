"""The tasks that workers find with `-tp 'bridge/tasks/*.py'`: thin, no torch, no gRPC."""
