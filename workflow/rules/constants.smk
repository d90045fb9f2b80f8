# Constants of detectors: raw runs -> constants.nxs, proposed to the calibration store.
#
# Integrating detectors: preprocess -> sanity -> gather (a module of a measure) -> dark, x-rays, pulse
# capacitor, current source (an ASIC) -> merge currents -> combine -> mask -> join modules -> join all.
# Photon counters: dark, flood, stability, rate -> mask and flat field.
# Then both: report -> propose.


# Only what is needed to judge constants: scans that use them need an accepted version.
rule constants:
    input:
        every_constant,
    localrule: True


# ----------------------------------------------------------------- integrating detectors


rule constants_preprocess:
    input:
        raw=raw_of_run,
    output:
        facts=paths.run("facts.json"),
    log:
        paths.log("constants_preprocess", "constants", "run"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("constants_preprocess"),
        runtime=minutes("constants_preprocess"),
    params:
        raw=braced(raw_of_run),
        flags=whole_detector(
            run=lambda e, b, w: [w.run], modules=lambda e, b, w: b.modules
        ),
        version=stages.constants_preprocess.VERSION,
    message:
        "{wildcards.constants}: what run {wildcards.run} holds"
    shell:
        "python -m hklflow.stages.constants_preprocess --raw {params.raw}"
        " --facts {output.facts:q} {params.flags} > {log:q} 2>&1"


rule constants_sanity:
    input:
        raw=raw_of_run,
        facts=paths.run("facts.json"),
    output:
        report=paths.run("sanity.json"),
    log:
        paths.log("constants_sanity", "constants", "run"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("constants_sanity"),
        runtime=minutes("constants_sanity"),
    params:
        raw=braced(raw_of_run),
        flags=constants_flags("constants_sanity"),
        version=stages.constants_sanity.VERSION,
    message:
        "{wildcards.constants}: checks of run {wildcards.run}"
    shell:
        "python -m hklflow.stages.constants_sanity --raw {params.raw} --facts {input.facts:q}"
        " --report {output.report:q} {params.flags} > {log:q} 2>&1"


# One job reads a module's files once, for all its ASICs.
rule gather:
    input:
        facts=of_runs("facts.json"),
        sanity=of_runs("sanity.json"),
    output:
        gathered=temp(directory(paths.gathered())),
    log:
        paths.log("gather", "constants", "measure", "module"),
    benchmark:
        paths.benchmark("gather", "constants", "measure", "module")
    retries: RETRIES
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("gather"),
        runtime=minutes("gather"),
    params:
        facts=braced("facts"),
        sanity=braced("sanity"),
        gathered=each_asic,
        flags=whole_detector(
            measure=lambda e, b, w: [w.measure], module=lambda e, b, w: [w.module]
        ),
        version=stages.gather.VERSION,
    message:
        "{wildcards.constants}: gather {wildcards.measure} of module {wildcards.module}"
    shell:
        "python -m hklflow.stages.gather --facts {params.facts} --sanity {params.sanity}"
        " --gathered {params.gathered} {params.flags} > {log:q} 2>&1"


rule process_dark:
    input:
        high=gathered("dark_high"),
        medium=gathered("dark_medium"),
        low=gathered("dark_low"),
    output:
        constants=paths.asic("dark.nxs"),
    log:
        paths.log("process_dark", "constants", "module", "asic"),
    benchmark:
        paths.benchmark("process_dark", "constants", "module", "asic")
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("process_dark"),
        runtime=minutes("process_dark"),
    params:
        flags=constants_flags("process_dark"),
        version=stages.process_dark.VERSION,
    message:
        "{wildcards.constants}: offset and noise of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.process_dark --high {input.high:q}/asic_{wildcards.asic}.h5"
        " --medium {input.medium:q}/asic_{wildcards.asic}.h5"
        " --low {input.low:q}/asic_{wildcards.asic}.h5"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule process_xray:
    input:
        gathered=gathered("xray"),
        dark=paths.asic("dark.nxs"),
    output:
        constants=paths.asic("xray.nxs"),
    log:
        paths.log("process_xray", "constants", "module", "asic"),
    benchmark:
        paths.benchmark("process_xray", "constants", "module", "asic")
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("process_xray"),
        runtime=minutes("process_xray"),
    params:
        flags=constants_flags("process_xray"),
        version=stages.process_xray.VERSION,
    message:
        "{wildcards.constants}: gain of ASIC {wildcards.module}/{wildcards.asic} from fluorescence"
    shell:
        "python -m hklflow.stages.process_xray --gathered {input.gathered:q}/asic_{wildcards.asic}.h5"
        " --dark {input.dark:q}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule process_pulse_capacitor:
    input:
        gathered=gathered("pulse_capacitor"),
        dark=paths.asic("dark.nxs"),
    output:
        constants=paths.asic("pulse_capacitor.nxs"),
    log:
        paths.log("process_pulse_capacitor", "constants", "module", "asic"),
    benchmark:
        paths.benchmark("process_pulse_capacitor", "constants", "module", "asic")
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("process_pulse_capacitor"),
        runtime=minutes("process_pulse_capacitor"),
    params:
        flags=constants_flags("process_pulse_capacitor"),
        version=stages.process_pulse_capacitor.VERSION,
    message:
        "{wildcards.constants}: pulse capacitor of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.process_pulse_capacitor --gathered {input.gathered:q}/asic_{wildcards.asic}.h5"
        " --dark {input.dark:q}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule process_current_source:
    input:
        gathered=gathered("current_source_{current}"),
        dark=paths.asic("dark.nxs"),
    output:
        constants=paths.asic("current_source_{current}.nxs"),
    log:
        paths.log("process_current_source", "constants", "module", "asic", "current"),
    benchmark:
        paths.benchmark(
            "process_current_source", "constants", "module", "asic", "current"
        )
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("process_current_source"),
        runtime=minutes("process_current_source"),
    params:
        flags=constants_flags("process_current_source"),
        version=stages.process_current_source.VERSION,
    message:
        "{wildcards.constants}: current source {wildcards.current} of ASIC"
        " {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.process_current_source --gathered {input.gathered:q}/asic_{wildcards.asic}.h5"
        " --dark {input.dark:q}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule merge_current_source:
    input:
        currents=of_currents,
    output:
        constants=paths.asic("merged.nxs"),
    log:
        paths.log("merge_current_source", "constants", "module", "asic"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("merge_current_source"),
        runtime=minutes("merge_current_source"),
    params:
        names=told(names=lambda e, b, w: b.currents),
        currents=braced("currents"),
        flags=constants_flags("merge_current_source"),
        version=stages.merge_current_source.VERSION,
    message:
        "{wildcards.constants}: best current of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.merge_current_source --currents {params.currents}"
        " --constants {output.constants:q} {params.names} {params.flags} > {log:q} 2>&1"


rule combine_constants:
    input:
        dark=paths.asic("dark.nxs"),
        xray=of_measured("xray.nxs", "xray"),
        pulse_capacitor=of_measured("pulse_capacitor.nxs", "pulse_capacitor"),
        current_source=of_measured("merged.nxs", "current_source"),
        gain_map=outside(lambda w: at(w).gain_map or []),
    output:
        constants=paths.asic("combined.nxs"),
    log:
        paths.log("combine_constants", "constants", "module", "asic"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("combine_constants"),
        runtime=minutes("combine_constants"),
    params:
        measured=optional(
            xray="xray",
            pulse_capacitor="pulse_capacitor",
            current_source="current_source",
            gain_map=outside(lambda w: at(w).gain_map or []),
        ),
        size=told(module_size=lambda e, b, w: e.module_size),
        flags=constants_flags("combine_constants"),
        version=stages.combine_constants.VERSION,
    message:
        "{wildcards.constants}: gains of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.combine_constants --dark {input.dark:q} {params.measured}"
        " --constants {output.constants:q} {params.size} {params.flags} > {log:q} 2>&1"


rule mask_constants:
    input:
        combined=paths.asic("combined.nxs"),
        user=outside(lambda w: at(w).mask or []),
    output:
        constants=paths.asic("masked.nxs"),
    log:
        paths.log("mask_constants", "constants", "module", "asic"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("mask_constants"),
        runtime=minutes("mask_constants"),
    params:
        user=optional(user=outside(lambda w: at(w).mask or [])),
        size=told(module_size=lambda e, b, w: e.module_size),
        flags=constants_flags("mask_constants"),
        version=stages.mask_constants.VERSION,
    message:
        "{wildcards.constants}: mask of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        "python -m hklflow.stages.mask_constants --combined {input.combined:q} {params.user}"
        " --constants {output.constants:q} {params.size} {params.flags} > {log:q} 2>&1"


rule join_module:
    input:
        asics=of_asics,
    output:
        constants=paths.module("module.nxs"),
    log:
        paths.log("join_module", "constants", "module"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("join_module"),
        runtime=minutes("join_module"),
    params:
        asics=braced("asics"),
        flags=told(
            detector=lambda e, b, w: [e.detector],
            module=lambda e, b, w: [w.module],
            module_size=lambda e, b, w: e.module_size,
            asic_size=lambda e, b, w: e.asic_size,
            numbers=lambda e, b, w: b.asics(int(w.module)),
        ),
        version=stages.join_module.VERSION,
    message:
        "{wildcards.constants}: join the ASICs of module {wildcards.module}"
    shell:
        "python -m hklflow.stages.join_module --asics {params.asics}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule join_constants:
    input:
        modules=of_modules,
    output:
        constants=paths.constants("constants.nxs"),
    log:
        paths.log("join_constants", "constants"),
    wildcard_constraints:
        constants=one_of(BRANCHES),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("join_constants"),
        runtime=minutes("join_constants"),
    params:
        modules=braced("modules"),
        flags=told(
            numbers=lambda e, b, w: b.modules,
            absent=lambda e, b, w: [m for m in e.modules if m not in b.modules],
            title=lambda e, b, w: [f"constants of {w.constants}"],
        ),
        version=stages.join_constants.VERSION,
    message:
        "{wildcards.constants}: join the modules"
    shell:
        "python -m hklflow.stages.join_constants --modules {params.modules}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


# ----------------------------------------------------------------------- photon counters


rule counter_dark:
    input:
        raw=counter_raw("dark"),
    output:
        constants=paths.constants("dark.nxs"),
    log:
        paths.log("counter_dark", "constants"),
    wildcard_constraints:
        constants=one_of(COUNTERS),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("counter_dark"),
        runtime=minutes("counter_dark"),
    params:
        raw=braced(counter_raw("dark")),
        pattern=counter_pattern("dark"),
        flags=constants_flags("counter_dark"),
        version=stages.counter_dark.VERSION,
    message:
        "{wildcards.constants}: hot pixels"
    shell:
        "python -m hklflow.stages.counter_dark --raw {params.raw} {params.pattern}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule counter_flood:
    input:
        raw=counter_raw("flood"),
        geometry=counter_geometry,
        dark=of_counter("dark"),
    output:
        constants=paths.constants("flood.nxs"),
    log:
        paths.log("counter_flood", "constants"),
    wildcard_constraints:
        constants=one_of(COUNTERS),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("counter_flood"),
        runtime=minutes("counter_flood"),
    params:
        raw=braced(counter_raw("flood")),
        pattern=counter_pattern("flood"),
        known=optional(geometry=counter_geometry, dark="dark"),
        flags=constants_flags("counter_flood"),
        version=stages.counter_flood.VERSION,
    message:
        "{wildcards.constants}: flat field"
    shell:
        "python -m hklflow.stages.counter_flood --raw {params.raw} {params.pattern} {params.known}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule counter_stability:
    input:
        raw=counter_raw("stability"),
    output:
        constants=paths.constants("stability.nxs"),
    log:
        paths.log("counter_stability", "constants"),
    wildcard_constraints:
        constants=one_of(COUNTERS),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("counter_stability"),
        runtime=minutes("counter_stability"),
    params:
        raw=braced(counter_raw("stability")),
        pattern=counter_pattern("stability"),
        flags=constants_flags("counter_stability"),
        version=stages.counter_stability.VERSION,
    message:
        "{wildcards.constants}: pixels that are always strong"
    shell:
        "python -m hklflow.stages.counter_stability --raw {params.raw} {params.pattern}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule counter_rate:
    input:
        raw=counter_raw("rate"),
    output:
        constants=paths.constants("rate.nxs"),
    log:
        paths.log("counter_rate", "constants"),
    wildcard_constraints:
        constants=one_of(COUNTERS),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("counter_rate"),
        runtime=minutes("counter_rate"),
    params:
        raw=braced(counter_raw("rate")),
        pattern=counter_pattern("rate"),
        transmission=told(transmission=lambda e, b, w: e.runs.transmission),
        flags=constants_flags("counter_rate"),
        version=stages.counter_rate.VERSION,
    message:
        "{wildcards.constants}: dead time"
    shell:
        "python -m hklflow.stages.counter_rate --raw {params.raw} {params.pattern} {params.transmission}"
        " --constants {output.constants:q} {params.flags} > {log:q} 2>&1"


rule counter_constants:
    input:
        dark=of_counter("dark"),
        flood=of_counter("flood"),
        stability=of_counter("stability"),
        rate=of_counter("rate"),
        files=outside(lambda w: hklconfig.files(at(w).counter_constants)),
    output:
        constants=paths.constants("constants.nxs"),
        picture=report(
            paths.constants("mask.png"),
            caption="../report/mask.rst",
            category="1 Detector",
            labels={"of": "{constants}", "shows": "constants: mask and flat field"},
        ),
        metrics=paths.constants("counter.json"),
    log:
        paths.log("counter_constants", "constants"),
    wildcard_constraints:
        constants=one_of(COUNTERS),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("counter_constants"),
        runtime=minutes("counter_constants"),
    params:
        measured=optional(
            dark="dark", flood="flood", stability="stability", rate="rate"
        ),
        flags=constants_flags("counter_constants"),
        version=stages.counter_constants.VERSION,
    message:
        "{wildcards.constants}: mask and flat field"
    shell:
        "python -m hklflow.stages.counter_constants {params.measured}"
        " --constants {output.constants:q} --picture {output.picture:q}"
        " --metrics {output.metrics:q} {params.flags} > {log:q} 2>&1"


# ----------------------------------------------------------------------------- both


rule constants_report:
    input:
        constants=paths.constants("constants.nxs"),
    output:
        histograms=report(
            paths.constants("histograms.png"),
            caption="../report/constants_histograms.rst",
            category="1 Detector",
            labels={"of": "{constants}", "shows": "constants: histograms"},
        ),
        maps=report(
            paths.constants("maps.png"),
            caption="../report/constants_maps.rst",
            category="1 Detector",
            labels={"of": "{constants}", "shows": "constants: maps"},
        ),
        table=paths.constants("table.json"),
    log:
        paths.log("constants_report", "constants"),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("constants_report"),
        runtime=minutes("constants_report"),
    params:
        flags=told(asic_size=lambda e, b, w: getattr(e, "asic_size", None)),
        version=stages.constants_report.VERSION,
    message:
        "{wildcards.constants}: pictures and table of the constants"
    shell:
        "python -m hklflow.stages.constants_report --constants {input.constants:q}"
        " --histograms {output.histograms:q} --maps {output.maps:q} --table {output.table:q}"
        " {params.flags} > {log:q} 2>&1"


rule propose_constants:
    input:
        constants=paths.constants("constants.nxs"),
        report=[
            paths.constants(name)
            for name in ("histograms.png", "maps.png", "table.json")
        ],
    output:
        proposed=paths.constants("proposed.json"),
    log:
        paths.log("propose_constants", "constants"),
    localrule: True
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("propose_constants"),
        runtime=minutes("propose_constants"),
    params:
        report=braced("report"),
        flags=lambda w: hklconfig.flags(experiment.proposal(w.constants)),
        version=stages.propose_constants.VERSION,
    message:
        "propose the constants {wildcards.constants} to the calibration store"
    shell:
        "python -m hklflow.stages.propose_constants --constants {input.constants:q}"
        " --report {params.report} --proposed {output.proposed:q} {params.flags} > {log:q} 2>&1"
