# The average structure: orientation -> converge -> integrate (a rotation) -> scale -> merge to
# structure factors -> I(hkl, T) of a sample. Part of `all` with `bragg: true`; `snakemake bragg` makes
# it in any case.


rule bragg:
    input:
        every_structure_factor,
    localrule: True


rule converge:
    input:
        orientation=paths.scan("orientation.json"),
        accepted=paths.scan("accepted.json"),
        scans=of_rotations("scan.nxs"),
        masks=of_rotations("mask.nxs"),
        scales=of_rotations("scale.nxs"),
        peaks=of_rotations("peaks.nxs"),
        files=files_of("transform"),
    output:
        converged=paths.scan("converged.json"),
        history=paths.scan("convergence.json"),
        picture=report(
            paths.scan("convergence.png"),
            caption="../report/convergence.rst",
            category="3 Lattice and orientation",
            subcategory="{sample}",
            labels={"scan": "{scan}", "shows": "convergence, residuals by module"},
        ),
        modules=paths.scan("modules.json"),
    log:
        paths.log("converge", "sample", "scan"),
    benchmark:
        paths.benchmark("converge", "sample", "scan")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("converge"),
        runtime=minutes("converge"),
    params:
        flags=flags_of(lambda w: experiment.converge_params(w.sample, w.scan)),
        version=stages.converge.VERSION,
    message:
        "refine and integrate {wildcards.sample} {wildcards.scan} until the model rests"
    shell:
        "python -m hklflow.stages.converge --orientation {input.orientation:q}"
        " --accepted {input.accepted:q} --scans {input.scans:q} --masks {input.masks:q}"
        " --scales {input.scales:q} --peaks {input.peaks:q} --converged {output.converged:q}"
        " --history {output.history:q} --picture {output.picture:q} --modules {output.modules:q}"
        " {params.flags} --threads {threads} > {log:q} 2>&1"


rule integrate:
    input:
        scan=paths.rotation("scan.nxs"),
        mask=paths.rotation("mask.nxs"),
        scale=paths.rotation("scale.nxs"),
        peaks=paths.rotation("peaks.nxs"),
        orientation=paths.scan("converged.json"),
        accepted=paths.scan("accepted.json"),
        files=files_of("transform"),
        flat_field=used_flat,
    output:
        reflections=paths.rotation("reflections.nxs"),
        picture=report(
            paths.rotation("reflections.png"),
            caption="../report/reflections_integrated.rst",
            category="5 Structure factors",
            subcategory="{sample} {scan}",
            labels={"rotation": "{rotation}", "shows": "1 integrated reflections"},
        ),
        metrics=paths.rotation("reflections.json"),
    log:
        paths.log("integrate", "sample", "scan", "rotation"),
    benchmark:
        paths.benchmark("integrate", "sample", "scan", "rotation")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("integrate"),
        runtime=minutes("integrate"),
    params:
        flags=flags_of(
            lambda w: experiment.integrate_params(w.sample, w.scan, w.rotation)
        ),
        flat_field=optional(flat_field=used_flat),
        version=stages.integrate.VERSION,
    message:
        "integrate the reflections of {wildcards.sample} {wildcards.scan} {wildcards.rotation}"
    shell:
        "python -m hklflow.stages.integrate --scan {input.scan:q} --mask {input.mask:q}"
        " --scale {input.scale:q} --peaks {input.peaks:q} --orientation {input.orientation:q}"
        " --accepted {input.accepted:q} --reflections {output.reflections:q}"
        " --picture {output.picture:q} --metrics {output.metrics:q} {params.flags}"
        " {params.flat_field} --threads {threads} > {log:q} 2>&1"


rule scale_reflections:
    input:
        reflections=of_rotations("reflections.nxs"),
        orientation=paths.scan("converged.json"),
    output:
        scaled=paths.scan("scaled.nxs"),
        picture=report(
            paths.scan("scaled.png"),
            caption="../report/scaled.rst",
            category="5 Structure factors",
            subcategory="{sample} {scan}",
            labels={"rotation": "all", "shows": "2 scales and error model"},
        ),
        metrics=paths.scan("scaled.json"),
    log:
        paths.log("scale_reflections", "sample", "scan"),
    benchmark:
        paths.benchmark("scale_reflections", "sample", "scan")
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("scale_reflections"),
        runtime=minutes("scale_reflections"),
    params:
        flags=flags_of(lambda w: experiment.scale_params(w.sample, w.scan)),
        version=stages.scale_reflections.VERSION,
    message:
        "scale the reflections of {wildcards.sample} {wildcards.scan}"
    shell:
        "python -m hklflow.stages.scale_reflections --reflections {input.reflections:q}"
        " --orientation {input.orientation:q} --scaled {output.scaled:q}"
        " --picture {output.picture:q} --metrics {output.metrics:q} {params.flags} > {log:q} 2>&1"


rule merge_reflections:
    input:
        scaled=paths.scan("scaled.nxs"),
        orientation=paths.scan("converged.json"),
    output:
        factors=paths.scan("structure_factors.nxs"),
        mtz=paths.scan("structure_factors.mtz"),
        hkl=paths.scan("structure_factors.hkl"),
        table=paths.scan("structure_factors.tsv"),
        picture=report(
            paths.scan("structure_factors.png"),
            caption="../report/structure_factors.rst",
            category="5 Structure factors",
            subcategory="{sample} {scan}",
            labels={"rotation": "all", "shows": "3 merged: statistics by resolution"},
        ),
        metrics=paths.scan("structure_factors.json"),
    log:
        paths.log("merge_reflections", "sample", "scan"),
    benchmark:
        paths.benchmark("merge_reflections", "sample", "scan")
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("merge_reflections"),
        runtime=minutes("merge_reflections"),
    params:
        flags=flags_of(lambda w: experiment.merge_reflections_params(w.sample, w.scan)),
        version=stages.merge_reflections.VERSION,
    message:
        "merge the reflections of {wildcards.sample} {wildcards.scan} to structure factors"
    shell:
        "python -m hklflow.stages.merge_reflections --scaled {input.scaled:q}"
        " --orientation {input.orientation:q} --factors {output.factors:q} --mtz {output.mtz:q}"
        " --hkl {output.hkl:q} --table {output.table:q} --picture {output.picture:q}"
        " --metrics {output.metrics:q} {params.flags} > {log:q} 2>&1"


rule bragg_series:
    input:
        factors=of_scans("structure_factors.nxs"),
    output:
        table=report(
            paths.series("intensities.tsv"),
            caption="../report/intensities.rst",
            category="0 Overview",
            labels={
                "shows": "{sample}: Bragg intensities against temperature (table)"
            },
        ),
        series=paths.series("intensities.nxs"),
        picture=report(
            paths.series("intensities.png"),
            caption="../report/intensities.rst",
            category="0 Overview",
            labels={"shows": "{sample}: Bragg intensities against temperature"},
        ),
    log:
        paths.log("bragg_series", "sample"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("bragg_series"),
        runtime=minutes("bragg_series"),
    params:
        factors=braced("factors"),
        flags=sample_flags("bragg_series"),
        version=stages.bragg_series.VERSION,
    message:
        "Bragg intensities of {wildcards.sample} against temperature"
    shell:
        "python -m hklflow.stages.bragg_series --factors {params.factors}"
        " --table {output.table:q} --series {output.series:q} --picture {output.picture:q}"
        " {params.flags} > {log:q} 2>&1"
