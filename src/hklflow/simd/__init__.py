"""Vectors of numbers in compiled kernels. Only this room uses private interfaces of Numba.

Numba does not turn every loop into vector code. It widens integers to 64 bits, and it cannot move
the selected ones of sixteen numbers to the front of a vector. Such parts of kernels are written as
words: functions that generate the machine code themselves:

    @word(LIKE, I64, I64, I64)
    def add_to(like: Value, sums: Value, counts: Value, n: Value) -> None:
        with span(n, step=16) as j:
            total = load(like.kind, sums, j, lanes=16) + load(like.kind, counts, j, lanes=16)
            store(total, sums, j)

* `jit`: the decorator of kernels
* `define`: the decorator of words, which kernels call
* `kinds`: the types of numbers
* `value`: arithmetic, comparisons and conversions, with the rules of numpy
* `lanes`: copying a number to all lanes, selecting lanes, masks and their bits
* `memory`: reading and writing numbers at addresses
* `control`: loops, branches, variables
* `words`: words that kernels call directly
* `waiting`: a line for those who wait for a compilation
* `private`: private interfaces of Numba and llvmlite

The number of lanes of a vector is any power of two; LLVM adapts it to the processor.
"""
