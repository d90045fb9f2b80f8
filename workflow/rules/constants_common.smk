# What the rules of the constants share: which jobs there are, and functions that find their inputs.
from hklflow.experiment import constants as hklconstants
from hklflow.constants.runs import raw_files as files_of_run
from hklflow.experiment.tables import is_series, raw_ends

BRANCHES = {
    name: hklconstants.branch(entry)
    for name, entry in settings.constants.items()
    if isinstance(entry, hklconstants.IntegratingDetector)
}
COUNTERS = {
    name: entry for name, entry in settings.constants.items() if name not in BRANCHES
}


wildcard_constraints:
    constants=one_of(settings.constants),
    run=one_of({run for b in BRANCHES.values() for run in b.runs}),
    measure=one_of({measure for b in BRANCHES.values() for measure in b.measures}),
    current=one_of({current for b in BRANCHES.values() for current in b.currents}),
    module=r"\d+",
    asic=r"\d+",


def every_constant(wildcards):
    """Products of all constants that the configuration defines, of every step.

    A step that fails removes its old product; if only the last were asked for, the next run
    would take that for finished.
    """
    wanted = []
    for name, entry in settings.constants.items():
        products = ["constants.nxs", "histograms.png", "maps.png", "table.json"]
        if entry.stored is not None:
            products.append("proposed.json")
        if name in COUNTERS:
            products += [f"{kind}.nxs" for kind in hklconstants.counter_runs(entry)]
        wanted += [
            paths.constants(product).format(constants=name) for product in products
        ]
        if name not in BRANCHES:
            continue
        branch = BRANCHES[name]
        steps = hklconstants.steps(branch)
        for run in branch.runs:
            wanted.append(paths.run("sanity.json").format(constants=name, run=run))
        for module in branch.modules:
            at_module = {"constants": name, "module": module}
            wanted.append(paths.module("module.nxs").format(**at_module))
            wanted += [
                paths.asic(step).format(**at_module, asic=asic)
                for asic in branch.asics(module)
                for step in steps
            ]
    return wanted


def at(wildcards):
    """Entry of the constants at hand."""
    return settings.constants[wildcards.constants]


def told(**given):
    """Params function: flags of what these functions of (entry, branch, wildcards) return."""

    @known
    def inner(wildcards):
        entry, branch = at(wildcards), BRANCHES.get(wildcards.constants)
        values = {name: of(entry, branch, wildcards) for name, of in given.items()}
        return " ".join(
            f"--{name.replace('_', '-')} {' '.join(shlex.quote(str(v)) for v in value)}"
            for name, value in values.items()
            if value
        )

    return inner


def whole_detector(**given):
    """The same, with how the detector is divided."""
    return told(
        layout=lambda e, b, w: [e.layout],
        detector=lambda e, b, w: [e.detector],
        module_size=lambda e, b, w: e.module_size,
        asic_size=lambda e, b, w: e.asic_size,
        **given,
    )


def constants_flags(section):
    """Params function: flags of a section of the entry at hand."""

    @known
    def inner(wildcards):
        return hklconfig.flags(getattr(at(wildcards), section))

    return inner


@outside
def raw_of_run(wildcards):
    """Raw files of a run."""
    run = BRANCHES[wildcards.constants].runs[wildcards.run]
    return listed_files(run, wildcards.constants)


def listed_files(run, name):
    """Files that a run of the configuration stands for."""
    try:
        return files_of_run(run, Path())
    except HklflowError as error:
        raise WorkflowError(f"constants {name}: {error}") from None


def of_runs(name):
    """Input function: this product of all runs of the measure at hand."""

    @known
    def inner(wildcards):
        branch = BRANCHES[wildcards.constants]
        return [
            paths.run(name).format(constants=wildcards.constants, run=run)
            for run in branch.runs_of(wildcards.measure)
        ]

    return inner


def gathered(measure):
    """Input function: gathered frames of a measure for the module at hand."""

    @known
    def inner(wildcards):
        own = dict(wildcards.items()) | {"measure": measure.format(**wildcards)}
        return paths.gathered().format(**own)

    return inner


def each_asic(wildcards, output):
    """Params function: files of all ASICs in the folder of the gathered frames."""
    asics = range(BRANCHES[wildcards.constants].detector.asics)
    return " ".join(shlex.quote(f"{output.gathered}/asic_{asic}.h5") for asic in asics)


def of_measured(name, measure):
    """Input function: this product of the ASIC at hand, if the measure was made."""

    @known
    def inner(wildcards):
        made = BRANCHES[wildcards.constants].measures
        if not any(m == measure or m.startswith(f"{measure}_") for m in made):
            return []
        return paths.asic(name).format(**dict(wildcards.items()))

    return inner


def of_currents(wildcards):
    """Current-source results of the ASIC at hand, of all currents."""
    pattern = paths.asic("current_source_{current}.nxs")
    own = dict(wildcards.items())
    return [
        pattern.format(**own, current=current)
        for current in BRANCHES[wildcards.constants].currents
    ]


def of_asics(wildcards):
    """Masked constants of the ASICs of the module at hand."""
    return [
        paths.asic("masked.nxs").format(**dict(wildcards.items()), asic=asic)
        for asic in BRANCHES[wildcards.constants].asics(int(wildcards.module))
    ]


def of_modules(wildcards):
    """Constants of all modules."""
    return [
        paths.module("module.nxs").format(constants=wildcards.constants, module=module)
        for module in BRANCHES[wildcards.constants].modules
    ]


def counter_raw(kind):
    """Input function: raw files of a measurement, or both ends of image series."""

    @outside
    def inner(wildcards):
        runs = hklconstants.counter_runs(at(wildcards))[kind]
        return [end for run in runs for end in raw_ends(run, Path())]

    return inner


def counter_pattern(kind):
    """Params function: flags of the patterns of image series."""

    @known
    def inner(wildcards):
        runs = hklconstants.counter_runs(at(wildcards))[kind]
        series = [run for run in runs if is_series(run)]
        if not series:
            return ""
        flag = "--patterns" if kind == "rate" else "--pattern"
        return " ".join([flag, *(shlex.quote(run) for run in series)])

    return inner


@outside
def counter_geometry(wildcards):
    """Geometry of the flood, if there is an entry for it."""
    name = at(wildcards).geometry
    try:
        return (experiment.calibration_file(name) if name else None) or []
    except HklflowError as error:
        raise WorkflowError(str(error)) from None


def of_counter(kind):
    """Input function: constants of a measurement, if it was made."""

    @known
    def inner(wildcards):
        if kind not in hklconstants.counter_runs(at(wildcards)):
            return []
        return paths.constants(f"{kind}.nxs").format(constants=wildcards.constants)

    return inner
