"""What a process answers over HTTP: health and metrics."""
