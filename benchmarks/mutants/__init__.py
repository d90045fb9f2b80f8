"""Judge the tests by mutation: small faults are put into the code, and the tests should notice.

    python -m benchmarks.mutants draw --seed 19 --number 40 --out benchmarks/mutants.json
    python -m benchmarks.mutants reach --repo DIR --venv-python PY --out reach.json [--tests ...]
    python -m benchmarks.mutants run --mutants benchmarks/mutants.json --reach reach.json \\
        --repo DIR --venv-python PY --out result.jsonl

The interpreter that runs this needs `coverage` and the same version of Python as PY, an environment
in which the tests run. Neither DIR nor the environment of PY is changed: tests run in copies of
DIR's tracked files, each with an interpreter of its own that imports hklflow from its copy and all
else from PY's environment (see `sandbox`).

`draw` again with `"equivalent": "reason"` written into some mutants of the file keeps and replaces
those. `reach` is valid for the sources that it has seen only; mutants are found again by function
and text, so they outlive changes elsewhere.
"""
