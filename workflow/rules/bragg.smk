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
        log_of("converge"),
    benchmark:
        times_of("converge")
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
        command("converge")


rule integrate:
    input:
        **reads(
            "integrate",
            "scan",
            "mask",
            "scale",
            "peaks",
            "orientation",
            "accepted",
            "files",
            "flat_field",
        ),
    output:
        **writes("integrate", "reflections", "picture", "metrics"),
    log:
        log_of("integrate"),
    benchmark:
        times_of("integrate")
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
        command("integrate")


rule scale_reflections:
    input:
        **reads("scale_reflections", "reflections", "orientation"),
    output:
        **writes("scale_reflections", "scaled", "picture", "metrics"),
    log:
        log_of("scale_reflections"),
    benchmark:
        times_of("scale_reflections")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("scale_reflections"),
    params:
        **params_of("scale_reflections"),
    message:
        "scale the reflections of {wildcards.sample} {wildcards.scan}"
    shell:
        command("scale_reflections")


rule merge_reflections:
    input:
        **reads("merge_reflections", "scaled", "orientation"),
    output:
        **writes(
            "merge_reflections", "factors", "mtz", "hkl", "table", "picture", "metrics"
        ),
    log:
        log_of("merge_reflections"),
    benchmark:
        times_of("merge_reflections")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge_reflections"),
    params:
        **params_of("merge_reflections"),
    message:
        "merge the reflections of {wildcards.sample} {wildcards.scan} to structure factors"
    shell:
        command("merge_reflections")


rule bragg_series:
    input:
        **reads("bragg_series", "factors"),
    output:
        **writes("bragg_series", "table", "series", "picture"),
    log:
        log_of("bragg_series"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("bragg_series"),
    params:
        **params_of("bragg_series"),
    message:
        "Bragg intensities of {wildcards.sample} against temperature"
    shell:
        command("bragg_series")
