# Simulated raw files, for experiments whose configuration has a `simulation` section


rule simulate:
    output:
        raw="{raw}",
    log:
        paths.log("simulate", "raw"),
    wildcard_constraints:
        raw=one_of(hklconfig.simulated_raws(experiment)),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("simulate"),
        runtime=minutes("simulate"),
    params:
        description=described,
        version=stages.simulate.VERSION,
    message:
        "simulate {wildcards.raw}"
    shell:
        "python -m hklflow.stages.simulate --raw {output.raw:q}"
        " --description {params.description:q} > {log:q} 2>&1"
