# With frame_blocks: the transforms of a rotation's blocks of frames, added up.


rule add_transforms:
    input:
        parts=of_parts("transform.nxs"),
        masked_parts=of_parts("masked_transform.nxs"),
    output:
        transform=paths.rotation("transform.nxs"),
        masked_transform=paths.rotation("masked_transform.nxs"),
    log:
        paths.log("add_transforms", "sample", "scan", "rotation"),
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("add_transforms"),
        runtime=minutes("add_transforms"),
    params:
        version=stages.add_transforms.VERSION,
    message:
        "add the blocks of frames of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.add_transforms --parts {input.parts:q}"
        " --masked-parts {input.masked_parts:q} --transform {output.transform:q}"
        " --masked-transform {output.masked_transform:q} > {log:q} 2>&1"
