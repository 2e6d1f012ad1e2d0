"""Numbers: profiles, bins, distances, evidence. NumPy and the standard library; no OpenTelemetry, clock or globals."""
