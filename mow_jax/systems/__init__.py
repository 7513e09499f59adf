"""One folder a system: its pure functions, and how they become the house's record of it."""
