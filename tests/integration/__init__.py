"""Tests against real servers: a Jaeger and a Prometheus that `scripts/servers.py` builds."""
