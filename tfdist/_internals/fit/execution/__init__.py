"""How the steps of a training or test function run: compiled one by one, or several in a call."""
