# Simulated raw files, for experiments whose configuration has a `simulation` section


rule simulate:
    output:
        **writes("simulate", "raw"),
    log:
        table.log("simulate"),
    wildcard_constraints:
        raw=table.raws(),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("simulate"),
    params:
        **params_of("simulate"),
    message:
        "simulate {wildcards.raw}"
    shell:
        table.command("simulate")
