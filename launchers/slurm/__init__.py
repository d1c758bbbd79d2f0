"""Slurm: the batch script, the commands of its command line, and the record of a run's jobs. No torch."""
