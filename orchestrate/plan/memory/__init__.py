"""What a rank holds, term by term."""
