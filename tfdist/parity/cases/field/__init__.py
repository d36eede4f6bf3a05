"""What people who train this way have met, and reported in public."""
