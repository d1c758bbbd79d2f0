"""What a rank does so that a run survives: stop when asked, show signs of life, distrust numbers."""
