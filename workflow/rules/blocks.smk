# With frame_blocks: the transforms of a rotation's blocks of frames, added up.


rule add_transforms:
    input:
        **reads("add_transforms", "parts", "masked_parts"),
    output:
        **writes("add_transforms", "transform", "masked_transform"),
    log:
        table.log("add_transforms"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("add_transforms"),
    params:
        **params_of("add_transforms"),
    message:
        "add the blocks of frames of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("add_transforms")
