"""ScaleZero (arXiv 2509.07945): one world model for all tasks with experts chosen token by token, and tree search."""
