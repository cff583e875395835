def card(*a): return "x"
