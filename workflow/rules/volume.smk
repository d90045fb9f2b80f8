# Frames -> counts and norm on the hkl grid -> merged S(Q) -> the scan's master file


rule unmeasured_background:
    input:
        **reads(
            "unmeasured_background",
            "scans",
            "masks",
            "scales",
            "absorption",
            "frame_masks",
            "orientation",
            "accepted",
            "files",
            "flat_fields",
        ),
    output:
        **writes("unmeasured_background", "background", "picture", "metrics"),
    log:
        table.log("unmeasured_background"),
    benchmark:
        table.benchmark("unmeasured_background")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("unmeasured_background"),
    params:
        **params_of("unmeasured_background"),
    message:
        "background of {wildcards.sample} {wildcards.scan} without a measurement"
    shell:
        table.command("unmeasured_background")


rule refine_scale:
    input:
        **reads(
            "refine_scale",
            "scans",
            "masks",
            "scales",
            "absorption",
            "frame_masks",
            "orientation",
            "accepted",
            "files",
            "flat_fields",
            "backgrounds",
        ),
    output:
        **writes("refine_scale", "refined", "picture", "metrics"),
    log:
        table.log("refine_scale"),
    benchmark:
        table.benchmark("refine_scale")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("refine_scale"),
    params:
        **params_of("refine_scale"),
    message:
        "scale of {wildcards.sample} {wildcards.scan} from repeated measurements"
    shell:
        table.command("refine_scale")


rule transform:
    input:
        **reads(
            "transform",
            "scan",
            "mask",
            "scale",
            "absorption",
            "refined",
            "frame_mask",
            "orientation",
            "accepted",
            "background",
            "files",
            "flat_field",
        ),
    output:
        **writes("transform", "transform", "masked_transform"),
    log:
        table.log("transform"),
    benchmark:
        table.benchmark("transform")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("transform"),
    params:
        **params_of("transform"),
    message:
        "transform "
        + " ".join(f"{{wildcards.{name}}}" for name in table.wildcards("transform"))
    shell:
        table.command("transform")


rule merge:
    input:
        **reads("merge", "volumes"),
    output:
        **writes("merge", "volume", "slices", "coverage", "metrics"),
    log:
        table.log("merge"),
    benchmark:
        table.benchmark("merge")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge"),
    params:
        **params_of("merge"),
    message:
        "merge the rotations of {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        table.command("merge")


rule scan_file:
    input:
        **reads(
            "scan_file",
            "orientation",
            "transform",
            "masked_transform",
            "scans",
            "statistics",
            "scales",
            "peaks",
            "frame_masks",
            "rotation_transforms",
            "rotation_masked_transforms",
            "powders",
            "symmetrised",
            "filled",
            "total_pdfs",
            "delta_pdfs",
            "absolute_scale",
            "structure_factors",
            "differences",
            "pdf_differences",
        ),
    output:
        **writes("scan_file", "master"),
    log:
        table.log("scan_file"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("scan_file"),
    params:
        **params_of("scan_file"),
    message:
        "master file of {wildcards.sample} {wildcards.scan}"
    shell:
        table.command("scan_file")


rule stack:
    input:
        **reads("stack", "volumes"),
    output:
        **writes("stack", "stack", "table", "picture"),
    log:
        table.log("stack"),
    wildcard_constraints:
        kind="(symm_)?(masked_)?transform",
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("stack"),
    params:
        **params_of("stack"),
    message:
        "stack the volumes of {wildcards.sample} along temperature"
        " (parent {wildcards.parent}, {wildcards.kind})"
    shell:
        table.command("stack")


rule cluster:
    input:
        **reads("cluster", "volumes"),
    output:
        **writes("cluster", "clusters", "picture", "metrics"),
    log:
        table.log("cluster"),
    benchmark:
        table.benchmark("cluster")
    retries: RETRIES
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        **resources_of("cluster"),
    params:
        **params_of("cluster"),
    message:
        "cluster the voxels of {wildcards.sample} that change with temperature"
        " (parent {wildcards.parent}, {wildcards.kind})"
    shell:
        table.command("cluster")
