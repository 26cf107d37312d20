"""What may end an attempt from outside: each source only sets a value, and the loop looks at it."""
