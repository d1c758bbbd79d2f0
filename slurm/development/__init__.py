"""A Slurm cluster on one machine, whose nodes are Linux namespaces. Needs root, no module beyond Python's."""
