# Merged volumes -> symmetrised S(Q) -> diffuse S(Q) -> pair distributions, and their change
# with temperature


rule symmetrise:
    input:
        **reads("symmetrise", "volumes", "orientation"),
    output:
        **writes("symmetrise", "symmetrised", "picture", "metrics"),
    log:
        table.log("symmetrise"),
    benchmark:
        table.benchmark("symmetrise")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("symmetrise"),
    params:
        **params_of("symmetrise"),
    message:
        "symmetrise {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        table.command("symmetrise")


rule fill:
    input:
        **reads("fill", "symmetrised", "orientation", "whole"),
    output:
        **writes("fill", "filled", "picture", "metrics"),
    log:
        table.log("fill"),
    benchmark:
        table.benchmark("fill")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("fill"),
    params:
        **params_of("fill"),
    message:
        "punch and fill {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        table.command("fill")


rule pdf:
    input:
        **reads("pdf", "filled", "symmetrised"),
    output:
        **writes("pdf", "pdf", "picture", "metrics"),
    log:
        table.log("pdf"),
    benchmark:
        table.benchmark("pdf")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("pdf"),
    params:
        **params_of("pdf"),
    message:
        "{wildcards.which} PDF of {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        table.command("pdf")


rule planes:
    input:
        **reads("planes", "volume"),
    output:
        **writes("planes", "picture"),
    log:
        table.log("planes"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("planes"),
    params:
        **params_of("planes"),
    message:
        "planes of {wildcards.sample} {wildcards.scan} ({wildcards.volume}, {wildcards.kind})"
    shell:
        table.command("planes")


rule difference:
    input:
        **reads("difference", "symmetrised", "reference", "delta_pdf", "reference_pdf"),
    output:
        **writes("difference", "difference", "pdf_difference", "picture", "metrics"),
    log:
        table.log("difference"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("difference"),
    params:
        **params_of("difference"),
    message:
        "difference of {wildcards.sample} {wildcards.scan} to its reference ({wildcards.kind})"
    shell:
        table.command("difference")


rule stack_pdf:
    input:
        **reads("stack_pdf", "volumes", "series"),
    output:
        **writes(
            "stack_pdf",
            "stack",
            "table",
            "picture",
            "changes",
            "changes_picture",
            "results",
        ),
    log:
        table.log("stack_pdf"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("stack_pdf"),
    params:
        **params_of("stack_pdf"),
    message:
        "stack the 3D-ΔPDFs of {wildcards.sample} along temperature"
        " (parent {wildcards.parent}, {wildcards.kind})"
    shell:
        table.command("stack_pdf")
