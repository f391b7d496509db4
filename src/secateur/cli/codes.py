"""Exit codes, as the documentation lists them."""

DONE = 0
EVIDENCE = 1
BAD_INPUT = 2
INCONCLUSIVE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141
INTERNAL = 70
