"""The schedules: what every stage does, when, and how long that takes."""
