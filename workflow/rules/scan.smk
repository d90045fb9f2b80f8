# One rotation: (sum, block sums) -> import -> pixel mask -> frame sums -> frame scale, peaks, 3-D mask.
# One scan: index and refine the parent -> refine every scan from its parent -> gates.


rule sum_scans:
    input:
        raw=repeated_raw_files,
        linked=linked_files,
    output:
        sum=paths.unbinned.rotation("sum.nxs"),
    log:
        paths.unbinned.log("sum_scans", "sample", "scan", "rotation"),
    benchmark:
        paths.unbinned.benchmark("sum_scans", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("sum_scans"),
        runtime=minutes("sum_scans"),
    params:
        raw=quoted(repeated_raw_files),
        flags=flags_of(lambda w: experiment.sum_params(w.sample, w.scan, w.rotation)),
        version=stages.sum_scans.VERSION,
    message:
        "sum the repeated scans of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.sum_scans --raw {params.raw} --sum {output.sum:q}"
        " {params.flags} > {log:q} 2>&1"


rule correct_frames:
    input:
        raw=repeated_raw_files,
        linked=linked_files,
        constants=used_constants(counter=False),
    output:
        frames=paths.unbinned.rotation("corrected.nxs"),
        picture=report(
            paths.unbinned.rotation("corrected.png"),
            caption="../report/corrected.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "0 corrected frames"},
        ),
        metrics=paths.unbinned.rotation("corrected.json"),
    log:
        paths.unbinned.log("correct_frames", "sample", "scan", "rotation"),
    benchmark:
        paths.unbinned.benchmark("correct_frames", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("correct_frames"),
        runtime=minutes("correct_frames"),
    params:
        raw=braced(repeated_raw_files),
        constants=quoted(used_constants(counter=False)),
        flags=flags_of(
            lambda w: experiment.correct_params(w.sample, w.scan, w.rotation)
        ),
        version=stages.correct_frames.VERSION,
    message:
        "correct the frames of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.correct_frames --raw {params.raw}"
        " --constants {params.constants} --frames {output.frames:q} --picture {output.picture:q}"
        " --metrics {output.metrics:q} {params.flags} > {log:q} 2>&1"


rule bin_frames:
    input:
        raw=raw_files,
        linked=linked_files,
    output:
        binned=paths.rotation("binned.nxs"),
    log:
        paths.log("bin_frames", "sample", "scan", "rotation"),
    benchmark:
        paths.benchmark("bin_frames", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 4
    resources:
        mem_mb=memory("bin_frames"),
        runtime=minutes("bin_frames"),
    params:
        raw=quoted(raw_files),
        flags=flags_of(lambda w: experiment.bin_params(w.sample, w.scan, w.rotation)),
        version=stages.bin_frames.VERSION,
    message:
        "sum blocks of pixels of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.bin_frames --raw {params.raw} --binned {output.binned:q}"
        " {params.flags} --threads {threads} > {log:q} 2>&1"


rule import_scan:
    input:
        raw=frame_files,
        linked=linked_files,
        geometry=calibrated_geometry,
    output:
        scan=paths.rotation("scan.nxs"),
    log:
        paths.log("import_scan", "sample", "scan", "rotation"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("import_scan"),
        runtime=minutes("import_scan"),
    params:
        raw=quoted(frame_files),
        flags=flags_of(lambda w: experiment.import_params(w.sample, w.scan, w.rotation)),
        geometry=optional(geometry=calibrated_geometry),
        version=stages.import_scan.VERSION,
    message:
        "import {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.import_scan --raw {params.raw} {params.geometry}"
        " --scan {output.scan:q} {params.flags} > {log:q} 2>&1"


rule pixel_mask:
    input:
        scan=paths.rotation("scan.nxs"),
        files=files_of("pixel_mask"),
        constants=used_constants(counter=True),
    output:
        mask=paths.rotation("mask.nxs"),
        picture=report(
            paths.rotation("mask.png"),
            caption="../report/mask.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "1 pixel mask"},
        ),
        metrics=paths.rotation("mask.json"),
    log:
        paths.log("pixel_mask", "sample", "scan", "rotation"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("pixel_mask"),
        runtime=minutes("pixel_mask"),
    params:
        flags=scan_flags(experiment.pixel_mask_params),
        constants=optional(constants=used_constants(counter=True)),
        version=stages.pixel_mask.VERSION,
    message:
        "pixel mask of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.pixel_mask --scan {input.scan:q} --mask {output.mask:q}"
        " --picture {output.picture:q} --metrics {output.metrics:q} {params.flags}"
        " {params.constants} > {log:q} 2>&1"


rule find_peaks:
    input:
        scan=paths.rotation("scan.nxs"),
        mask=paths.rotation("mask.nxs"),
    output:
        peaks=paths.rotation("peaks.nxs"),
        picture=report(
            paths.rotation("peaks.png"),
            caption="../report/peaks.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "3 peaks"},
        ),
        metrics=paths.rotation("peaks.json"),
        statistics=paths.rotation("statistics.nxs"),
        statistics_picture=report(
            paths.rotation("statistics.png"),
            caption="../report/statistics.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "2 frame sums"},
        ),
        statistics_metrics=paths.rotation("statistics.json"),
    log:
        paths.log("find_peaks", "sample", "scan", "rotation"),
    benchmark:
        paths.benchmark("find_peaks", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("find_peaks"),
        runtime=minutes("find_peaks"),
    params:
        flags=scan_flags(experiment.find_peaks_params),
        version=stages.find_peaks.VERSION,
    message:
        "peaks and frame sums of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.find_peaks --scan {input.scan:q} --mask {input.mask:q}"
        " --peaks {output.peaks:q} --picture {output.picture:q} --metrics {output.metrics:q}"
        " --statistics {output.statistics:q} --statistics-picture {output.statistics_picture:q}"
        " --statistics-metrics {output.statistics_metrics:q} {params.flags} --threads {threads}"
        " > {log:q} 2>&1"


rule refine_parent:
    input:
        scans=of_rotations("scan.nxs"),
        peaks=of_rotations("peaks.nxs"),
        masks=of_rotations("mask.nxs"),
        start=start_of_parent,
    output:
        orientation=paths.scan("parent.json"),
        picture=report(
            paths.scan("parent.png"),
            caption="../report/residuals.rst",
            category="3 Lattice and orientation",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "parent's residuals"},
        ),
    log:
        paths.log("refine_parent", "sample", "scan"),
    benchmark:
        paths.benchmark("refine_parent", "sample", "scan")
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("refine_parent"),
        runtime=minutes("refine_parent"),
    params:
        flags=flags_of(lambda w: experiment.refine_parent_params(w.sample, w.scan)),
        more=optional(masks="masks", start=start_of_parent),
        version=stages.refine_parent.VERSION,
    message:
        "index and refine the parent {wildcards.sample} {wildcards.scan}"
    shell:
        "python -m hklflow.stages.refine_parent --scans {input.scans:q} --peaks {input.peaks:q}"
        " --orientation {output.orientation:q} --picture {output.picture:q} {params.flags}"
        " {params.more} --threads {threads} > {log:q} 2>&1"


rule refine:
    input:
        parent=of_parent("parent.json"),
        scans=of_rotations("scan.nxs"),
        peaks=of_rotations("peaks.nxs"),
        masks=of_rotations("mask.nxs"),
    output:
        orientation=paths.scan("orientation.json"),
        picture=report(
            paths.scan("residuals.png"),
            caption="../report/residuals.rst",
            category="3 Lattice and orientation",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "residuals"},
        ),
    log:
        paths.log("refine", "sample", "scan"),
    benchmark:
        paths.benchmark("refine", "sample", "scan")
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("refine"),
        runtime=minutes("refine"),
    params:
        flags=flags_of(lambda w: experiment.refine_params(w.sample, w.scan)),
        more=optional(masks="masks"),
        version=stages.refine.VERSION,
    message:
        "refine {wildcards.sample} {wildcards.scan} from the parent's orientation {input.parent}"
    shell:
        "python -m hklflow.stages.refine --parent {input.parent:q} --scans {input.scans:q}"
        " --peaks {input.peaks:q} --orientation {output.orientation:q} --picture {output.picture:q}"
        " {params.flags} {params.more} --threads {threads} > {log:q} 2>&1"


rule accept:
    input:
        orientation=paths.scan("orientation.json"),
        parent=of_parent("parent.json"),
    output:
        accepted=paths.scan("accepted.json"),
    log:
        paths.log("accept", "sample", "scan"),
    localrule: True
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("accept"),
        runtime=minutes("accept"),
    params:
        flags=section_flags("accept"),
        version=stages.accept.VERSION,
    message:
        "gates of {wildcards.sample} {wildcards.scan} against {input.parent}"
    shell:
        "python -m hklflow.stages.accept --orientation {input.orientation:q}"
        " --parent {input.parent:q} --accepted {output.accepted:q} {params.flags}"
        " > {log:q} 2>&1"


rule mask_3d:
    input:
        scan=paths.rotation("scan.nxs"),
        mask=paths.rotation("mask.nxs"),
        orientation=for_model_mask(paths.scan("orientation.json")),
        peaks=for_model_mask(paths.rotation("peaks.nxs")),
    output:
        frame_mask=paths.rotation("frame_mask.nxs"),
        picture=report(
            paths.rotation("frame_mask.png"),
            caption="../report/frame_mask.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "4 3-D mask"},
        ),
    log:
        paths.log("mask_3d", "sample", "scan", "rotation"),
    benchmark:
        paths.benchmark("mask_3d", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("mask_3d"),
        runtime=minutes("mask_3d"),
    params:
        flags=flags_of(
            lambda w: experiment.mask_3d_params(w.sample, w.scan, w.rotation)
        ),
        model=optional(orientation="orientation", peaks="peaks"),
        version=stages.mask_3d.VERSION,
    message:
        "3-D mask of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.mask_3d --scan {input.scan:q} --mask {input.mask:q}"
        " --frame-mask {output.frame_mask:q} --picture {output.picture:q} {params.flags}"
        " {params.model} --threads {threads} > {log:q} 2>&1"


rule frame_scale:
    input:
        scan=paths.rotation("scan.nxs"),
        statistics=paths.rotation("statistics.nxs"),
        reference_scan=of_first_rotation("scan.nxs"),
        reference=of_first_rotation("statistics.nxs"),
        earlier=of_earlier_rotations("statistics.nxs"),
    output:
        scale=paths.rotation("scale.nxs"),
        picture=report(
            paths.rotation("scale.png"),
            caption="../report/scale.rst",
            category="2 Frames",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "5 scale of the frames"},
        ),
        metrics=paths.rotation("scale.json"),
    log:
        paths.log("frame_scale", "sample", "scan", "rotation"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("frame_scale"),
        runtime=minutes("frame_scale"),
    params:
        flags=section_flags("frame_scale"),
        more=optional(earlier="earlier"),
        version=stages.frame_scale.VERSION,
    message:
        "scale of every frame of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.frame_scale --scan {input.scan:q}"
        " --statistics {input.statistics:q} --reference-scan {input.reference_scan:q}"
        " --reference {input.reference:q} --scale {output.scale:q} --picture {output.picture:q}"
        " --metrics {output.metrics:q} {params.flags} {params.more} > {log:q} 2>&1"
