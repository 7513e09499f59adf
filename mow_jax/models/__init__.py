"""Networks as Flax modules for ONE row of parameters, and the functions that gather rows for tasks and apply them."""
