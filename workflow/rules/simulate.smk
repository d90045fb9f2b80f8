# Simulated raw files, for experiments whose configuration has a `simulation` section


rule simulate:
    output:
        **writes("simulate", "raw"),
    log:
        log_of("simulate"),
    wildcard_constraints:
        raw=one_of(hklconfig.simulated_raws(experiment)),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("simulate"),
    params:
        **params_of("simulate"),
    message:
        "simulate {wildcards.raw}"
    shell:
        command("simulate")
