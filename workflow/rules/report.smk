# Tables and figures over all scans, for `snakemake --report`


rule temperature_series:
    input:
        **reads("temperature_series", "orientations", "peaks", "scales"),
    output:
        **writes("temperature_series", "table", "series", "picture", "findings"),
    log:
        table.log("temperature_series"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("temperature_series"),
    params:
        **params_of("temperature_series"),
    message:
        "cell, mosaic width and scale of {wildcards.sample} against temperature"
    shell:
        table.command("temperature_series")


rule features:
    input:
        **reads("features", "volumes", "orientations", "series"),
    output:
        **writes("features", "table", "picture", "results"),
    log:
        table.log("features"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("features"),
    params:
        **params_of("features"),
    message:
        "diffuse features of {wildcards.sample}"
    shell:
        table.command("features")


rule order_parameters:
    input:
        **reads(
            "order_parameters",
            "volumes",
            "orientations",
            "series",
            "findings",
            "features",
        ),
    output:
        **writes("order_parameters", "table", "picture", "orders"),
    log:
        table.log("order_parameters"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("order_parameters"),
    params:
        **params_of("order_parameters"),
    message:
        "order parameters of {wildcards.sample}"
    shell:
        table.command("order_parameters")


rule overview:
    input:
        **reads("overview", "orientations", "metrics", "accepted", "figures"),
    output:
        **writes("overview", "table", "page", "series"),
    log:
        table.log("overview"),
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **resources_of("overview"),
    params:
        **params_of("overview"),
    message:
        "overview of all scans"
    shell:
        table.command("overview")


rule sample_page:
    input:
        **reads("sample_page", "pictures", "figures"),
    output:
        **writes("sample_page", "page", "small", "statement"),
    log:
        table.log("sample_page"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        **resources_of("sample_page"),
    params:
        **params_of("sample_page"),
    message:
        "page and findings of {wildcards.sample}"
    shell:
        table.command("sample_page")
