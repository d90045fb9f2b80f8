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
        accepted=[
            paths.scan("accepted.json").format(sample=sample, scan=scan)
            for sample, scan in experiment.scans
        ],
        figures=every_figure,
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
        accepted=braced("accepted"),
        figures=crossed("figures"),
        version=stages.overview.VERSION,
    message:
        "overview of all scans"
    shell:
        "python -m hklflow.stages.overview --orientations {params.orientations}"
        " --metrics {params.metrics} --accepted {params.accepted}"
        " --figures {params.figures}"
        " --table {output.table:q} --series {output.series:q}"
        " > {log:q} 2>&1"


rule sample_page:
    input:
        pictures=lambda wildcards: of_sample(wildcards, ".png"),
        figures=lambda wildcards: of_sample(wildcards, ".json"),
    output:
        page=paths.page(),
        small=report(
            paths.page("in_report_"),
            caption="../report/sample_page.rst",
            category="0 Overview",
            labels={"shows": "{sample}: all on one page"},
        ),
    log:
        paths.log("sample_page", "sample"),
    conda:
        "../../envs/hklflow.yaml"
    threads: 2
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
        " --figures {params.figures} --page {output.page:q}"
        " --small {output.small:q} {params.flags} --threads {threads} > {log:q} 2>&1"
