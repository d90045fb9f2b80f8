# Still frames: batches of frames -> orientations and reflections -> detector, structure factors


rule stills:
    input:
        goals("stills"),
    localrule: True


rule index_stills:
    input:
        **reads("index_stills", "raw", "geometry", "files"),
    output:
        **writes("index_stills", "indexed", "metrics"),
    log:
        table.log("index_stills"),
    benchmark:
        table.benchmark("index_stills")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("index_stills"),
    params:
        **params_of("index_stills"),
    message:
        "index still frames of {wildcards.stills}, batch {wildcards.batch}"
    shell:
        table.command("index_stills")


rule refine_stills_detector:
    input:
        **reads("refine_stills_detector", "batches"),
    output:
        **writes("refine_stills_detector", "geometry", "picture", "metrics"),
    log:
        table.log("refine_stills_detector"),
    benchmark:
        table.benchmark("refine_stills_detector")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("refine_stills_detector"),
    params:
        **params_of("refine_stills_detector"),
    message:
        "detector from the still frames of {wildcards.stills}"
    shell:
        table.command("refine_stills_detector")


rule merge_stills:
    input:
        **reads("merge_stills", "batches"),
    output:
        **writes(
            "merge_stills",
            "factors",
            "mtz",
            "hkl",
            "table",
            "frames",
            "picture",
            "metrics",
            "page",
        ),
    log:
        table.log("merge_stills"),
    benchmark:
        table.benchmark("merge_stills")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge_stills"),
    params:
        **params_of("merge_stills"),
    message:
        "merge the still frames of {wildcards.stills}"
    shell:
        table.command("merge_stills")
