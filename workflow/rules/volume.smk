# Frames -> counts and norm on the hkl grid -> merged S(Q) -> the scan's master file


rule transform:
    input:
        scan=paths.rotation("scan.nxs"),
        mask=paths.rotation("mask.nxs"),
        scale=paths.rotation("scale.nxs"),
        frame_mask=paths.rotation("frame_mask.nxs"),
        orientation=paths.scan("orientation.json"),
        accepted=paths.scan("accepted.json"),
        files=files_of("transform"),
        flat_field=used_flat,
    output:
        transform=of_transform("transform.nxs"),
        masked_transform=of_transform("masked_transform.nxs"),
    log:
        paths.log("transform", *TRANSFORM_WILDCARDS),
    benchmark:
        paths.benchmark("transform", *TRANSFORM_WILDCARDS)
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("transform"),
        runtime=minutes("transform"),
    params:
        flags=flags_of(
            lambda w: experiment.transform_params(
                w.sample, w.scan, w.rotation, int(w.get("part", 0))
            )
        ),
        flat_field=optional(flat_field=used_flat),
        version=stages.transform.VERSION,
    message:
        "transform " + " ".join(f"{{wildcards.{name}}}" for name in TRANSFORM_WILDCARDS)
    shell:
        "python -m hklflow.stages.transform --scan {input.scan:q} --mask {input.mask:q}"
        " --scale {input.scale:q} --frame-mask {input.frame_mask:q} --accepted {input.accepted:q}"
        " --orientation {input.orientation:q} --transform {output.transform:q}"
        " --masked-transform {output.masked_transform:q} {params.flags} {params.flat_field} --threads {threads}"
        " > {log:q} 2>&1"


rule merge:
    input:
        volumes=of_rotations("{kind}.nxs"),
    output:
        volume=paths.scan("{kind}.nxs"),
        slices=report(
            paths.scan("{kind}.png"),
            caption="../report/slices.rst",
            category="4 S(Q)",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "{kind}"},
        ),
        coverage=report(
            paths.scan("{kind}_coverage.png"),
            caption="../report/coverage.rst",
            category="4 S(Q)",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "{kind}: coverage and errors"},
        ),
        metrics=paths.scan("{kind}.json"),
    log:
        paths.log("merge", "sample", "scan", "kind"),
    benchmark:
        paths.benchmark("merge", "sample", "scan", "kind")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("merge"),
        runtime=minutes("merge"),
    params:
        flags=flags_of(lambda w: experiment.merge_params(w.sample, w.scan, w.kind)),
        version=stages.merge.VERSION,
    message:
        "merge the rotations of {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        "python -m hklflow.stages.merge --volumes {input.volumes:q} --volume {output.volume:q}"
        " --slices {output.slices:q} --coverage {output.coverage:q} --metrics {output.metrics:q}"
        " {params.flags} > {log:q} 2>&1"


rule scan_file:
    input:
        orientation=paths.scan("orientation.json"),
        transform=paths.scan("transform.nxs"),
        masked_transform=paths.scan("masked_transform.nxs"),
        scans=of_rotations("scan.nxs"),
        statistics=of_rotations("statistics.nxs"),
        scales=of_rotations("scale.nxs"),
        peaks=of_rotations("peaks.nxs"),
        frame_masks=of_rotations("frame_mask.nxs"),
        symmetrised=of_kinds("symm_{kind}.nxs", SYMMETRISED),
        filled=of_kinds("filled_{kind}.nxs"),
        total_pdfs=of_kinds("total_pdf_{kind}.nxs"),
        delta_pdfs=of_kinds("delta_pdf_{kind}.nxs"),
    output:
        master=paths.master(),
    log:
        paths.log("scan_file", "sample", "scan"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("scan_file"),
        runtime=minutes("scan_file"),
    params:
        title=lambda w: experiment.scan_title(w.sample, w.scan),
        more=optional(
            symmetrised="symmetrised",
            filled="filled",
            total_pdfs="total_pdfs",
            delta_pdfs="delta_pdfs",
        ),
        configuration=resolved,
        version=stages.scan_file.VERSION,
    message:
        "master file of {wildcards.sample} {wildcards.scan}"
    shell:
        "python -m hklflow.stages.scan_file --orientation {input.orientation:q}"
        " --transform {input.transform:q} --masked-transform {input.masked_transform:q}"
        " --scans {input.scans:q} --statistics {input.statistics:q} --scales {input.scales:q}"
        " --peaks {input.peaks:q}"
        " --frame-masks {input.frame_masks:q} {params.more} --master {output.master:q}"
        " --title {params.title:q} --configuration={params.configuration:q} > {log:q} 2>&1"


rule stack:
    input:
        volumes=of_stacked("{kind}.nxs"),
    output:
        stack=paths.stack("{kind}.nxs"),
        table=report(
            paths.stack("{kind}.tsv"),
            caption="../report/reflections.rst",
            category="0 Overview",
            labels={"shows": "{sample}: reflections, parent {parent}, {kind} (table)"},
        ),
        picture=report(
            paths.stack("{kind}.png"),
            caption="../report/reflections.rst",
            category="0 Overview",
            labels={"shows": "{sample}: reflections, parent {parent}, {kind}"},
        ),
    log:
        paths.log("stack", "sample", "parent", "kind"),
    wildcard_constraints:
        kind="(symm_)?(masked_)?transform",
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("stack"),
        runtime=minutes("stack"),
    params:
        volumes=braced("volumes"),
        flags=flags_of(lambda w: experiment.stack_params(w.sample, w.parent, w.kind)),
        version=stages.stack.VERSION,
    message:
        "stack the volumes of {wildcards.sample} along temperature"
        " (parent {wildcards.parent}, {wildcards.kind})"
    shell:
        "python -m hklflow.stages.stack --volumes {params.volumes} --stack {output.stack:q}"
        " --table {output.table:q} --picture {output.picture:q} {params.flags} > {log:q} 2>&1"
