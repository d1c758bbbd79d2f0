"""Reads what a machine is into a cluster file: each source has a module, and `merge` puts them together.

Nothing is guessed. What a source says is written with where it came from, what follows from a datasheet says
which, and what nobody said is marked, so that planning stops at it and names it.
"""
