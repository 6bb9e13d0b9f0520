"""secateur prunes neural networks and proves that what is left still works."""
