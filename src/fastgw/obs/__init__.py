"""What operators see: logs, access log, metrics."""
