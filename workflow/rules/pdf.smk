# Merged volumes -> symmetrised S(Q) -> diffuse S(Q) -> pair distributions, and their change
# with temperature


rule symmetrise:
    input:
        volumes=of_rotations("{kind}.nxs"),
        orientation=paths.scan("orientation.json"),
    output:
        symmetrised=paths.scan("symm_{kind}.nxs"),
        picture=report(
            paths.scan("symm_{kind}.png"),
            caption="../report/symmetrised.rst",
            category="4 S(Q)",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "{kind}, symmetrised: agreement"},
        ),
        metrics=paths.scan("symm_{kind}.json"),
    log:
        paths.log("symmetrise", "sample", "scan", "kind"),
    benchmark:
        paths.benchmark("symmetrise", "sample", "scan", "kind")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("symmetrise"),
        runtime=minutes("symmetrise"),
    params:
        flags=flags_of(lambda w: experiment.symmetrise_params(w.sample, w.scan, w.kind)),
        version=stages.symmetrise.VERSION,
    message:
        "symmetrise {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        "python -m hklflow.stages.symmetrise --volumes {input.volumes:q}"
        " --orientation {input.orientation:q} --symmetrised {output.symmetrised:q}"
        " --picture {output.picture:q} --metrics {output.metrics:q} {params.flags}"
        " --threads {threads} > {log:q} 2>&1"


rule fill:
    input:
        symmetrised=paths.scan("symm_{kind}.nxs"),
        orientation=paths.scan("orientation.json"),
        whole=with_reflections,
    output:
        filled=paths.scan("filled_{kind}.nxs"),
        picture=report(
            paths.scan("filled_{kind}.png"),
            caption="../report/fill.rst",
            category="4 S(Q)",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "{kind}: without Bragg reflections"},
        ),
        metrics=paths.scan("filled_{kind}.json"),
    log:
        paths.log("fill", "sample", "scan", "kind"),
    benchmark:
        paths.benchmark("fill", "sample", "scan", "kind")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("fill"),
        runtime=minutes("fill"),
    params:
        flags=flags_of(lambda w: experiment.fill_params(w.sample, w.scan, w.kind)),
        whole=optional(whole="whole"),
        version=stages.fill.VERSION,
    message:
        "punch and fill {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        "python -m hklflow.stages.fill --symmetrised {input.symmetrised:q}"
        " --orientation {input.orientation:q} {params.whole} --filled {output.filled:q}"
        " --picture {output.picture:q} --metrics {output.metrics:q} {params.flags}"
        " --threads {threads} > {log:q} 2>&1"


rule pdf:
    input:
        filled=paths.scan("filled_{kind}.nxs"),
        symmetrised=with_reflections,
    output:
        pdf=paths.scan("{which}_pdf_{kind}.nxs"),
        picture=report(
            paths.scan("{which}_pdf_{kind}.png"),
            caption="../report/pdf.rst",
            category="6 Pair distributions",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "{which} PDF ({kind})"},
        ),
        metrics=paths.scan("{which}_pdf_{kind}.json"),
    log:
        paths.log("pdf", "sample", "scan", "which", "kind"),
    benchmark:
        paths.benchmark("pdf", "sample", "scan", "which", "kind")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("pdf"),
        runtime=minutes("pdf"),
    params:
        flags=flags_of(
            lambda w: experiment.pdf_params(w.sample, w.scan, w.which, w.kind)
        ),
        symmetrised=optional(symmetrised="symmetrised"),
        version=stages.pdf.VERSION,
    message:
        "{wildcards.which} PDF of {wildcards.sample} {wildcards.scan} ({wildcards.kind})"
    shell:
        "python -m hklflow.stages.pdf --filled {input.filled:q} {params.symmetrised}"
        " --pdf {output.pdf:q} --picture {output.picture:q} --metrics {output.metrics:q}"
        " {params.flags} --threads {threads} > {log:q} 2>&1"


rule planes:
    input:
        volume=paths.scan("{volume}_{kind}.nxs"),
    output:
        picture=report(
            paths.scan("planes_{volume}_{kind}.png"),
            caption="../report/planes.rst",
            category="6 Pair distributions",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "planes of {volume}_{kind}"},
        ),
    log:
        paths.log("planes", "sample", "scan", "volume", "kind"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("planes"),
        runtime=minutes("planes"),
    params:
        flags=flags_of(lambda w: experiment.planes_params(w.sample, w.scan)),
        version=stages.planes.VERSION,
    message:
        "planes of {wildcards.sample} {wildcards.scan} ({wildcards.volume}, {wildcards.kind})"
    shell:
        "python -m hklflow.stages.planes --volume {input.volume:q} --picture {output.picture:q}"
        " {params.flags} > {log:q} 2>&1"


rule difference:
    input:
        symmetrised=paths.scan("symm_{kind}.nxs"),
        reference=of_reference("symm_{kind}.nxs"),
        delta_pdf=paths.scan("delta_pdf_{kind}.nxs"),
        reference_pdf=of_reference("delta_pdf_{kind}.nxs"),
    output:
        difference=paths.scan("difference_{kind}.nxs"),
        pdf_difference=paths.scan("pdf_difference_{kind}.nxs"),
        picture=report(
            paths.scan("difference_{kind}.png"),
            caption="../report/difference.rst",
            category="6 Pair distributions",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "difference to the reference ({kind})"},
        ),
        metrics=paths.scan("difference_{kind}.json"),
    log:
        paths.log("difference", "sample", "scan", "kind"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("difference"),
        runtime=minutes("difference"),
    params:
        flags=flags_of(lambda w: experiment.difference_params(w.sample, w.scan, w.kind)),
        version=stages.difference.VERSION,
    message:
        "difference of {wildcards.sample} {wildcards.scan} to its reference ({wildcards.kind})"
    shell:
        "python -m hklflow.stages.difference --symmetrised {input.symmetrised:q}"
        " --reference {input.reference:q} --delta-pdf {input.delta_pdf:q}"
        " --reference-pdf {input.reference_pdf:q} --difference {output.difference:q}"
        " --pdf-difference {output.pdf_difference:q} --picture {output.picture:q}"
        " --metrics {output.metrics:q} {params.flags} > {log:q} 2>&1"


rule stack_pdf:
    input:
        volumes=of_stacked("delta_pdf_{kind}.nxs"),
    output:
        stack=paths.stack("delta_pdf_{kind}.nxs"),
        table=report(
            paths.stack("delta_pdf_{kind}.tsv"),
            caption="../report/stack_pdf.rst",
            category="0 Overview",
            labels={"shows": "{sample}: 3D-ΔPDF, parent {parent}, {kind} (table)"},
        ),
        picture=report(
            paths.stack("delta_pdf_{kind}.png"),
            caption="../report/stack_pdf.rst",
            category="0 Overview",
            labels={"shows": "{sample}: 3D-ΔPDF, parent {parent}, {kind}"},
        ),
    log:
        paths.log("stack_pdf", "sample", "parent", "kind"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("stack_pdf"),
        runtime=minutes("stack_pdf"),
    params:
        volumes=braced("volumes"),
        flags=flags_of(
            lambda w: experiment.stack_pdf_params(w.sample, w.parent, w.kind)
        ),
        version=stages.stack_pdf.VERSION,
    message:
        "stack the 3D-ΔPDFs of {wildcards.sample} along temperature"
        " (parent {wildcards.parent}, {wildcards.kind})"
    shell:
        "python -m hklflow.stages.stack_pdf --volumes {params.volumes} --stack {output.stack:q}"
        " --table {output.table:q} --picture {output.picture:q} {params.flags} > {log:q} 2>&1"
