"""Where predictions wait for their labels: in memory, in Redis, in a SQL database."""
