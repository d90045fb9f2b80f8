# What the workflow is to make: the products of all stages, and the pictures of a sample.

from types import SimpleNamespace

SCAN_PRODUCTS = (
    "orientation.json",
    "accepted.json",
    "transform.nxs",
    "masked_transform.nxs",
)
ROTATION_PRODUCTS = (
    "scan.nxs",
    "mask.nxs",
    "statistics.nxs",
    "scale.nxs",
    "peaks.nxs",
    "frame_mask.nxs",
    "transform.nxs",
    "masked_transform.nxs",
)


BRAGG_SCAN_PRODUCTS = (
    "converged.json",
    "scaled.nxs",
    *(f"structure_factors.{kind}" for kind in ("nxs", "mtz", "hkl", "tsv")),
)


# Of each kind of volume that is in `delta_pdf`.
PDF_SCAN_PRODUCTS = (
    "filled_{kind}.nxs",
    "total_pdf_{kind}.nxs",
    "delta_pdf_{kind}.nxs",
    "planes_symm_{kind}.png",
    "planes_delta_pdf_{kind}.png",
)


def every_pdf(wildcards):
    """All that follows the merged volumes of all scans."""
    wanted = []
    for sample, scan in experiment.scans:
        names = list(PDF_SCAN_PRODUCTS)
        if experiment.reference(sample, scan) is not None:
            names += ["difference_{kind}.nxs", "pdf_difference_{kind}.nxs"]
        wanted += [
            paths.scan(name).format(sample=sample, scan=scan, kind=kind)
            for name in names
            for kind in PDF_KINDS
        ]
        wanted += [
            paths.scan("symm_{kind}.nxs").format(sample=sample, scan=scan, kind=kind)
            for kind in SYMMETRISED
        ]
    wanted += [
        paths.stack(name).format(sample=sample, parent=parent, kind=kind)
        for sample, parent in experiment.stacks()
        for kind in PDF_KINDS
        for name in ("symm_{kind}.nxs", "delta_pdf_{kind}.nxs")
    ]
    return wanted


def every_structure_factor(wildcards):
    """All products of the Bragg reflections of all scans."""
    of_scan = [paths.scan(name) for name in BRAGG_SCAN_PRODUCTS]
    wanted = [
        product.format(sample=sample, scan=scan)
        for sample, scan in experiment.scans
        for product in of_scan
    ]
    wanted += [
        paths.rotation("reflections.nxs").format(
            sample=sample, scan=scan, rotation=rotation
        )
        for sample, scan, rotation in experiment.all_rotations()
    ]
    wanted += [
        paths.series(f"intensities.{kind}").format(sample=sample)
        for sample in experiment.used_samples()
        for kind in ("tsv", "nxs")
    ]
    return wanted


def every_product(wildcards):
    """All products of all scans."""
    of_scan = [*(paths.scan(name) for name in SCAN_PRODUCTS), paths.master()]
    of_parent_scan = [*of_scan, paths.scan("parent.json")]
    of_rotation = [paths.rotation(name) for name in ROTATION_PRODUCTS]
    if settings.binning > 1:
        of_rotation.append(paths.rotation("binned.nxs"))
    of_sum = [*of_rotation, paths.unbinned.rotation("sum.nxs")]
    wanted = [paths.overview("summary.tsv")] if experiment.scans else []
    used = {experiment.rotation(*key).calibration for key in experiment.all_rotations()}
    wanted += [
        paths.calibration("geometry.json").format(calibration=name)
        for name in sorted(used.intersection(POWDER + PONI))
    ]
    wanted += every_constant(wildcards)
    wanted += every_pdf(wildcards)
    if settings.bragg:
        wanted += every_structure_factor(wildcards)
    for sample, parent in experiment.stacks():
        wanted += [
            paths.stack("{kind}.nxs").format(sample=sample, parent=parent, kind=kind)
            for kind in ("transform", "masked_transform")
        ]
    for sample in experiment.used_samples():
        wanted += [
            paths.series(f"series.{kind}").format(sample=sample)
            for kind in ("tsv", "nxs")
        ]
        pages = (paths.page(), paths.page("in_report_"))
        wanted += [page.format(sample=sample) for page in pages]
    for sample, scan in experiment.scans:
        own = (
            of_parent_scan if experiment.scans[sample, scan].parent == scan else of_scan
        )
        wanted += [product.format(sample=sample, scan=scan) for product in own]
    for sample, scan, rotation in experiment.all_rotations():
        if experiment.is_corrected(sample, scan):
            own = paths.unbinned.rotation("corrected.nxs")
            wanted.append(own.format(sample=sample, scan=scan, rotation=rotation))
        own = (
            of_sum
            if experiment.rotation(sample, scan, rotation).is_sum
            else of_rotation
        )
        wanted += [p.format(sample=sample, scan=scan, rotation=rotation) for p in own]
    return wanted


ROTATION_STEPS = ("mask", "statistics", "peaks", "scale", "frame_mask")
MEASURED_STEPS = ("mask", "statistics", "peaks", "scale")


def of_sample(wildcards, ending):
    """Pictures (``.png``) or figures (``.json``) of all steps of the sample at hand."""
    sample, wanted = wildcards.sample, []
    pictures = ending == ".png"
    of_rotation = list(ROTATION_STEPS if pictures else MEASURED_STEPS)
    of_scan = list(KINDS) + ([f"{kind}_coverage" for kind in KINDS] if pictures else [])
    of_scan += ["residuals"] if pictures else ["orientation", "accepted"]
    of_scan += [f"symm_{kind}" for kind in SYMMETRISED]
    for kind in PDF_KINDS:
        of_scan += [f"{step}_{kind}" for step in ("filled", "total_pdf", "delta_pdf")]
        if pictures:
            of_scan += [f"planes_symm_{kind}", f"planes_delta_pdf_{kind}"]
    if settings.bragg:
        of_scan += ["convergence", "scaled", "structure_factors"]
        of_rotation.append("reflections")
    for scan in experiment.scans_of(sample):
        own, row = list(of_scan), experiment.scans[sample, scan]
        if experiment.reference(sample, scan) is not None:
            own += [f"difference_{kind}" for kind in PDF_KINDS]
        if row.parent == scan and pictures:
            own.append("parent")
        wanted += [
            paths.scan(f"{name}{ending}").format(sample=sample, scan=scan)
            for name in own
        ]
        steps = [paths.rotation(f"{name}{ending}") for name in of_rotation]
        if experiment.is_corrected(sample, scan):
            steps.append(paths.unbinned.rotation(f"corrected{ending}"))
        wanted += [
            step.format(sample=sample, scan=scan, rotation=rotation)
            for rotation in row.rotations
            for step in steps
        ]
    series = ["series"] + ["intensities"] * settings.bragg if pictures else ["findings"]
    wanted += [paths.series(f"{name}{ending}").format(sample=sample) for name in series]
    if pictures:
        used = {
            experiment.rotation(*key).calibration
            for key in experiment.all_rotations()
            if key[0] == sample
        }
        wanted += [
            paths.calibration("rings.png").format(calibration=name)
            for name in sorted(used.intersection(POWDER))
        ]
        stacked = [
            *KINDS,
            *(f"{s}_{k}" for k in PDF_KINDS for s in ("symm", "delta_pdf")),
        ]
        wanted += [
            paths.stack(f"{name}.png").format(sample=sample, parent=parent)
            for owner, parent in experiment.stacks()
            if owner == sample
            for name in stacked
        ]
    return wanted


def every_figure(wildcards):
    """Figures of all steps of all scans: what the verdicts are made of."""
    return [
        path
        for sample in experiment.used_samples()
        for path in figures_of_scans(sample)
    ]


def figures_of_scans(sample):
    """Those of a sample's page but for its series."""
    of_page = of_sample(SimpleNamespace(sample=sample), ".json")
    series = paths.series("findings.json").format(sample=sample)
    return [path for path in of_page if path != series]
