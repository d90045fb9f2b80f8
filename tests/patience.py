"""How long tests wait for another process: it ends a hang, and must not judge a busy machine."""

#: Seconds; fifty times what the slowest of them takes on a quiet machine.
PATIENCE = 3600.0
