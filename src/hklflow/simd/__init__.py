"""Vectors of numbers in compiled kernels; only here numba's private interfaces are touched.

What numba makes of a loop is not always vector code: it widens integers to 64 bits, and has no
expression for moving the marked ones of sixteen numbers to the front. Such parts of kernels are
`words`, functions that write the code themselves:

    @word(LIKE, I64, I64, I64)
    def add_to(kind: Value, sums: Value, counts: Value, n: Value) -> None:
        with span(n, step=16) as j:
            total = load(kind.kind, sums, j, lanes=16) + load(kind.kind, counts, j, lanes=16)
            store(total, sums, j)

* `kernel` (jit): how kernels are compiled
* `word` (define): a function that writes code, called by kernels
* kinds: the types of numbers; value: arithmetic and comparisons, as numpy has them
* lanes: from a number to all lanes and back, masks and their bits
* memory: numbers at addresses; control: loops and variables
* words: words that kernels call as they are
* private: what of numba is not public

A vector has any power of two of lanes: LLVM fits it to the processor.
"""
