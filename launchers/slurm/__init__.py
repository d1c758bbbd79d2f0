"""Slurm: the batch script and the record of a run's jobs; within a job what it was given, the preflight, and
the steps that its ranks run as. No torch."""
