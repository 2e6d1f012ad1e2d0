"""The only room that knows OpenTelemetry's mechanics."""
