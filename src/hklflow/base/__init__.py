"""What everything stands on: errors, whole files or none, the system, native libraries."""
