"""Plans and answers for people and for programs."""
