"""Answering over a network what a policy would do: decisions, sessions, logs, a web service, and its clients."""
