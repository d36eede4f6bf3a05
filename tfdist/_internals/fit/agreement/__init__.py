"""What the workers must have alike: what a call was told, the weights that it starts and ends with, and the data."""
