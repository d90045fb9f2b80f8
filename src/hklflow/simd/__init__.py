"""Vectors of numbers in compiled kernels; only here numba's private interfaces are touched.

Not every loop becomes vector code in numba: it widens integers to 64 bits, and cannot move the
marked ones of sixteen numbers to the front. Such parts of kernels are words, functions that write
the code themselves:

    @word(LIKE, I64, I64, I64)
    def add_to(like: Value, sums: Value, counts: Value, n: Value) -> None:
        with span(n, step=16) as j:
            total = load(like.kind, sums, j, lanes=16) + load(like.kind, counts, j, lanes=16)
            store(total, sums, j)

* `jit`: the decorator of kernels
* `define`: the decorator of words, which kernels call
* `kinds`: the types of numbers
* `value`: arithmetic, comparisons and conversions, as numpy has them
* `lanes`: from a number to all lanes and back; masks and their bits
* `memory`: numbers at addresses
* `control`: loops, branches, variables
* `words`: words that kernels call as they are
* `private`: what of numba is not public

A vector has any power of two of lanes: LLVM fits it to the processor.
"""
