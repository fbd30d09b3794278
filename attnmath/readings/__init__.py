"""One file per meaning of the equations: evaluate (NumPy), count, memory, text, symbolic (the only importer of SymPy)."""
