# One rotation: (sum, block sums) -> import -> pixel mask -> frame sums -> frame scale, peaks, 3-D mask.
# One scan: index and refine the parent -> refine every scan from its parent -> gates.


rule sum_scans:
    input:
        **reads("sum_scans", "raw", "linked"),
    output:
        **writes("sum_scans", "sum"),
    log:
        table.log("sum_scans"),
    benchmark:
        table.benchmark("sum_scans")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("sum_scans"),
    params:
        **params_of("sum_scans"),
    message:
        "sum the repeated scans of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("sum_scans")


rule correct_frames:
    input:
        **reads("correct_frames", "raw", "linked", "constants"),
    output:
        **writes("correct_frames", "frames", "picture", "metrics"),
    log:
        table.log("correct_frames"),
    benchmark:
        table.benchmark("correct_frames")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("correct_frames"),
    params:
        **params_of("correct_frames"),
    message:
        "correct the frames of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("correct_frames")


rule bin_frames:
    input:
        **reads("bin_frames", "raw", "linked"),
    output:
        **writes("bin_frames", "binned"),
    log:
        table.log("bin_frames"),
    benchmark:
        table.benchmark("bin_frames")
    retries: RETRIES
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        **resources_of("bin_frames"),
    params:
        **params_of("bin_frames"),
    message:
        "sum blocks of pixels of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("bin_frames")


rule import_scan:
    input:
        **reads("import_scan", "raw", "linked", "geometry"),
    output:
        **writes("import_scan", "scan"),
    log:
        table.log("import_scan"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("import_scan"),
    params:
        **params_of("import_scan"),
    message:
        "import {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("import_scan")


rule pixel_mask:
    input:
        **reads("pixel_mask", "scan", "files", "constants"),
    output:
        **writes("pixel_mask", "mask", "picture", "metrics"),
    log:
        table.log("pixel_mask"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("pixel_mask"),
    params:
        **params_of("pixel_mask"),
    message:
        "pixel mask of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("pixel_mask")


rule artificial_normalization:
    input:
        **reads("artificial_normalization", "scan", "mask"),
    output:
        **writes("artificial_normalization", "normalization", "picture", "metrics"),
    log:
        table.log("artificial_normalization"),
    benchmark:
        table.benchmark("artificial_normalization")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("artificial_normalization"),
    params:
        **params_of("artificial_normalization"),
    message:
        "artificial normalisation of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("artificial_normalization")


rule find_peaks:
    input:
        **reads("find_peaks", "scan", "mask"),
    output:
        **writes(
            "find_peaks",
            "peaks",
            "picture",
            "metrics",
            "statistics",
            "statistics_picture",
            "statistics_metrics",
        ),
    log:
        table.log("find_peaks"),
    benchmark:
        table.benchmark("find_peaks")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("find_peaks"),
    params:
        **params_of("find_peaks"),
    message:
        "peaks and frame sums of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("find_peaks")


rule refine_parent:
    input:
        **reads("refine_parent", "scans", "peaks", "masks", "start", "list"),
    output:
        **writes("refine_parent", "orientation", "picture"),
    log:
        table.log("refine_parent"),
    benchmark:
        table.benchmark("refine_parent")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("refine_parent"),
    params:
        **params_of("refine_parent"),
    message:
        "index and refine the parent {wildcards.sample} {wildcards.scan}"
    shell:
        table.command("refine_parent")


rule refine:
    input:
        **reads("refine", "parent", "scans", "peaks", "masks", "list"),
    output:
        **writes("refine", "orientation", "picture"),
    log:
        table.log("refine"),
    benchmark:
        table.benchmark("refine")
    conda:
        ENVIRONMENT
    resources:
        **resources_of("refine"),
    params:
        **params_of("refine"),
    message:
        "refine {wildcards.sample} {wildcards.scan} from the parent's orientation {input.parent}"
    shell:
        table.command("refine")


rule accept:
    input:
        **reads("accept", "orientation", "parent"),
    output:
        **writes("accept", "accepted"),
    log:
        table.log("accept"),
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **resources_of("accept"),
    params:
        **params_of("accept"),
    message:
        "gates of {wildcards.sample} {wildcards.scan} against {input.parent}"
    shell:
        table.command("accept")


rule absorption:
    input:
        **reads("absorption", "orientation", "accepted", "scans"),
    output:
        **writes("absorption", "absorption", "picture", "metrics"),
    log:
        table.log("absorption"),
    benchmark:
        table.benchmark("absorption")
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        **resources_of("absorption"),
    params:
        **params_of("absorption"),
    message:
        "transmission of {wildcards.sample} {wildcards.scan} by the crystal's shape"
    shell:
        table.command("absorption")


rule mask_3d:
    input:
        **reads("mask_3d", "scan", "mask", "orientation", "peaks"),
    output:
        **writes("mask_3d", "frame_mask", "picture"),
    log:
        table.log("mask_3d"),
    benchmark:
        table.benchmark("mask_3d")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("mask_3d"),
    params:
        **params_of("mask_3d"),
    message:
        "3-D mask of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("mask_3d")


rule background:
    input:
        **reads("background", "scan", "mask", "statistics", "absorption", "files"),
    output:
        **writes("background", "background", "picture", "metrics"),
    log:
        table.log("background"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("background"),
    params:
        **params_of("background"),
    message:
        "background of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("background")


rule frame_scale:
    input:
        **reads(
            "frame_scale",
            "scan",
            "statistics",
            "reference_scan",
            "reference",
            "earlier",
            "absorption",
            "background",
            "reference_background",
        ),
    output:
        **writes("frame_scale", "scale", "picture", "metrics"),
    log:
        table.log("frame_scale"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("frame_scale"),
    params:
        **params_of("frame_scale"),
    message:
        "scale of every frame of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        table.command("frame_scale")
