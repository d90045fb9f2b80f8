# Tables and figures over all scans, for `snakemake --report`


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
    conda:
        "../../envs/hklflow.yaml"
    params:
        version=stages.overview.VERSION,
    message:
        "overview of all scans"
    shell:
        "python -m hklflow.stages.overview --orientations {input.orientations:q}"
        " --metrics {input.metrics:q} --table {output.table:q} --series {output.series:q}"
        " > {log:q} 2>&1"
