# The average structure: orientation -> converge -> integrate (a rotation) -> scale -> merge to
# structure factors -> I(hkl, T) of a sample. Part of `all` with `bragg: true`; `snakemake bragg` makes
# it in any case.


rule bragg:
    input:
        goals("bragg"),
    localrule: True


rule converge:
    input:
        **reads(
            "converge",
            "orientation",
            "accepted",
            "scans",
            "masks",
            "scales",
            "peaks",
            "files",
        ),
    output:
        **writes("converge", "converged", "history", "picture", "modules"),
    log:
        table.log("converge"),
    benchmark:
        table.benchmark("converge")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("converge"),
    params:
        **params_of("converge"),
    message:
        "refine and integrate {wildcards.sample} {wildcards.scan} until the model rests"
    shell:
        table.command("converge")


rule integrate:
    input:
        **reads(
            "integrate",
            "scan",
            "mask",
            "scale",
            "absorption",
            "peaks",
            "orientation",
            "accepted",
            "files",
            "flat_field",
        ),
    output:
        **writes("integrate", "reflections", "picture", "metrics"),
    log:
        table.log("integrate"),
    benchmark:
        table.benchmark("integrate")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("integrate"),
    params:
        **params_of("integrate"),
    message:
        "integrate the reflections of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("integrate")


rule scale_reflections:
    input:
        **reads("scale_reflections", "reflections", "orientation"),
    output:
        **writes("scale_reflections", "scaled", "picture", "metrics"),
    log:
        table.log("scale_reflections"),
    benchmark:
        table.benchmark("scale_reflections")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("scale_reflections"),
    params:
        **params_of("scale_reflections"),
    message:
        "scale the reflections of {wildcards.sample} {wildcards.scan}"
    shell:
        table.command("scale_reflections")


rule merge_reflections:
    input:
        **reads("merge_reflections", "scaled", "orientation"),
    output:
        **writes(
            "merge_reflections", "factors", "mtz", "hkl", "table", "picture", "metrics"
        ),
    log:
        table.log("merge_reflections"),
    benchmark:
        table.benchmark("merge_reflections")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge_reflections"),
    params:
        **params_of("merge_reflections"),
    message:
        "merge the reflections of {wildcards.sample} {wildcards.scan} to structure factors"
    shell:
        table.command("merge_reflections")


rule merge_crystals:
    input:
        **reads("merge_crystals", "reflections", "orientations"),
    output:
        **writes(
            "merge_crystals",
            "factors",
            "mtz",
            "hkl",
            "table",
            "scaled",
            "picture",
            "comparison",
            "metrics",
        ),
    log:
        table.log("merge_crystals"),
    benchmark:
        table.benchmark("merge_crystals")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge_crystals"),
    params:
        **params_of("merge_crystals"),
    message:
        "merge the scans of {wildcards.crystals} to structure factors"
    shell:
        table.command("merge_crystals")


rule bragg_series:
    input:
        **reads("bragg_series", "factors"),
    output:
        **writes("bragg_series", "table", "series", "picture"),
    log:
        table.log("bragg_series"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("bragg_series"),
    params:
        **params_of("bragg_series"),
    message:
        "Bragg intensities of {wildcards.sample} against temperature"
    shell:
        table.command("bragg_series")


rule absolute_scale:
    input:
        **reads("absolute_scale", "volume", "scaled", "reference_files", "files"),
    output:
        **writes("absolute_scale", "picture", "metrics"),
    log:
        table.log("absolute_scale"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("absolute_scale"),
    params:
        **params_of("absolute_scale"),
    message:
        "absolute scale of {wildcards.sample} {wildcards.scan}"
    shell:
        table.command("absolute_scale")
