# Tables and figures over all scans, for `snakemake --report`


rule temperature_series:
    input:
        orientations=of_scans("orientation.json"),
        peaks=of_scans_rotations("peaks.nxs"),
        scales=of_scans_rotations("scale.nxs"),
    output:
        table=report(
            paths.series("series.tsv"),
            caption="../report/temperature_series.rst",
            category="0 Overview",
            labels={"shows": "{sample}: against temperature (table)"},
        ),
        series=paths.series("series.nxs"),
        picture=report(
            paths.series("series.png"),
            caption="../report/temperature_series.rst",
            category="0 Overview",
            labels={"shows": "{sample}: against temperature"},
        ),
        findings=paths.series("findings.json"),
    log:
        paths.log("temperature_series", "sample"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("temperature_series"),
        runtime=minutes("temperature_series"),
    params:
        orientations=braced("orientations"),
        peaks=braced("peaks"),
        scales=braced("scales"),
        flags=sample_flags("temperature_series"),
        version=stages.temperature_series.VERSION,
    message:
        "cell, mosaic width and scale of {wildcards.sample} against temperature"
    shell:
        "python -m hklflow.stages.temperature_series --orientations {params.orientations}"
        " --peaks {params.peaks} --scales {params.scales} --table {output.table:q}"
        " --series {output.series:q} --picture {output.picture:q} --findings {output.findings:q}"
        " {params.flags} > {log:q} 2>&1"


rule overview:
    input:
        orientations=[
            paths.scan("orientation.json").format(sample=sample, scan=scan)
            for sample, scan in experiment.scans
        ],
        metrics=[
            paths.scan("transform.json").format(sample=sample, scan=scan)
            for sample, scan in experiment.scans
        ],
    output:
        table=report(
            paths.overview("summary.tsv"),
            caption="../report/summary.rst",
            category="0 Overview",
            labels={"shows": "table of all scans"},
        ),
        series=report(
            paths.overview("series.png"),
            caption="../report/series.rst",
            category="0 Overview",
            labels={"shows": "cell against temperature"},
        ),
    log:
        paths.log("overview"),
    localrule: True
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("overview"),
        runtime=minutes("overview"),
    params:
        orientations=braced("orientations"),
        metrics=braced("metrics"),
        version=stages.overview.VERSION,
    message:
        "overview of all scans"
    shell:
        "python -m hklflow.stages.overview --orientations {params.orientations}"
        " --metrics {params.metrics} --table {output.table:q} --series {output.series:q}"
        " > {log:q} 2>&1"


ROTATION_STEPS = ("mask", "statistics", "peaks", "scale", "frame_mask")
MEASURED_STEPS = ("mask", "statistics", "peaks", "scale")


def of_sample(wildcards, ending):
    """Pictures (``.png``) or figures (``.json``) of all steps of the sample at hand."""
    sample, wanted = wildcards.sample, []
    pictures = ending == ".png"
    of_rotation = list(ROTATION_STEPS if pictures else MEASURED_STEPS)
    of_scan = list(KINDS) + ([f"{kind}_coverage" for kind in KINDS] if pictures else [])
    of_scan += ["residuals"] if pictures else ["orientation", "accepted"]
    for kind in PDF_KINDS:
        of_scan += [
            f"{step}_{kind}" for step in ("symm", "filled", "total_pdf", "delta_pdf")
        ]
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
        steps = of_rotation + ["corrected"] * experiment.is_corrected(sample, scan)
        wanted += [
            paths.rotation(f"{name}{ending}").format(
                sample=sample, scan=scan, rotation=rotation
            )
            for rotation in row.rotations
            for name in steps
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


rule sample_page:
    input:
        pictures=lambda wildcards: of_sample(wildcards, ".png"),
        figures=lambda wildcards: of_sample(wildcards, ".json"),
    output:
        page=report(
            paths.page(),
            caption="../report/sample_page.rst",
            category="0 Overview",
            labels={"shows": "{sample}: page with every step"},
        ),
    log:
        paths.log("sample_page", "sample"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("sample_page"),
        runtime=minutes("sample_page"),
    params:
        pictures=crossed("pictures"),
        figures=crossed("figures"),
        flags=flags_of(lambda w: experiment.page_params(w.sample)),
        version=stages.sample_page.VERSION,
    message:
        "page of {wildcards.sample}"
    shell:
        "python -m hklflow.stages.sample_page --pictures {params.pictures}"
        " --figures {params.figures} --page {output.page:q} {params.flags} > {log:q} 2>&1"
