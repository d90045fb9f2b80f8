# Constants of detectors: raw runs -> constants.nxs, proposed to the calibration store.
#
# Integrating detectors: preprocess -> sanity -> gather (a module of a measure) -> dark, x-rays, pulse
# capacitor, current source (an ASIC) -> merge currents -> combine -> mask -> join modules -> join all.
# Photon counters: dark, flood, stability, rate -> mask and flat field.
# Then both: report -> propose.


# Only what is needed to judge constants: scans that use them need an accepted version.
rule constants:
    input:
        goals("constants"),
    localrule: True


# ----------------------------------------------------------------- integrating detectors


rule constants_preprocess:
    input:
        **reads("constants_preprocess", "raw"),
    output:
        **writes("constants_preprocess", "facts"),
    log:
        table.log("constants_preprocess"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("constants_preprocess"),
    params:
        **params_of("constants_preprocess"),
    message:
        "{wildcards.constants}: what run {wildcards.run} holds"
    shell:
        table.command("constants_preprocess")


rule constants_sanity:
    input:
        **reads("constants_sanity", "raw", "facts"),
    output:
        **writes("constants_sanity", "report"),
    log:
        table.log("constants_sanity"),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("constants_sanity"),
    params:
        **params_of("constants_sanity"),
    message:
        "{wildcards.constants}: checks of run {wildcards.run}"
    shell:
        table.command("constants_sanity")


# One job reads a module's files once, for all its ASICs.
rule gather:
    input:
        **reads("gather", "facts", "sanity"),
    output:
        **writes("gather", "gathered"),
    log:
        table.log("gather"),
    benchmark:
        table.benchmark("gather")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("gather"),
    params:
        **params_of("gather"),
    message:
        "{wildcards.constants}: gather {wildcards.measure} of module {wildcards.module}"
    shell:
        table.command("gather")


rule process_dark:
    input:
        **reads("process_dark", "high", "medium", "low"),
    output:
        **writes("process_dark", "constants"),
    log:
        table.log("process_dark"),
    benchmark:
        table.benchmark("process_dark")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("process_dark"),
    params:
        **params_of("process_dark"),
    message:
        "{wildcards.constants}: offset and noise of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("process_dark")


rule process_xray:
    input:
        **reads("process_xray", "gathered", "dark"),
    output:
        **writes("process_xray", "constants"),
    log:
        table.log("process_xray"),
    benchmark:
        table.benchmark("process_xray")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("process_xray"),
    params:
        **params_of("process_xray"),
    message:
        "{wildcards.constants}: gain of ASIC {wildcards.module}/{wildcards.asic} from fluorescence"
    shell:
        table.command("process_xray")


rule process_pulse_capacitor:
    input:
        **reads("process_pulse_capacitor", "gathered", "dark"),
    output:
        **writes("process_pulse_capacitor", "constants"),
    log:
        table.log("process_pulse_capacitor"),
    benchmark:
        table.benchmark("process_pulse_capacitor")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("process_pulse_capacitor"),
    params:
        **params_of("process_pulse_capacitor"),
    message:
        "{wildcards.constants}: pulse capacitor of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("process_pulse_capacitor")


rule process_current_source:
    input:
        **reads("process_current_source", "gathered", "dark"),
    output:
        **writes("process_current_source", "constants"),
    log:
        table.log("process_current_source"),
    benchmark:
        table.benchmark("process_current_source")
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("process_current_source"),
    params:
        **params_of("process_current_source"),
    message:
        "{wildcards.constants}: current source {wildcards.current} of ASIC"
        " {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("process_current_source")


rule merge_current_source:
    input:
        **reads("merge_current_source", "currents"),
    output:
        **writes("merge_current_source", "constants"),
    log:
        table.log("merge_current_source"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("merge_current_source"),
    params:
        **params_of("merge_current_source"),
    message:
        "{wildcards.constants}: best current of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("merge_current_source")


rule combine_constants:
    input:
        **reads(
            "combine_constants",
            "dark",
            "xray",
            "pulse_capacitor",
            "current_source",
            "gain_map",
        ),
    output:
        **writes("combine_constants", "constants"),
    log:
        table.log("combine_constants"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("combine_constants"),
    params:
        **params_of("combine_constants"),
    message:
        "{wildcards.constants}: gains of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("combine_constants")


rule mask_constants:
    input:
        **reads("mask_constants", "combined", "user"),
    output:
        **writes("mask_constants", "constants"),
    log:
        table.log("mask_constants"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("mask_constants"),
    params:
        **params_of("mask_constants"),
    message:
        "{wildcards.constants}: mask of ASIC {wildcards.module}/{wildcards.asic}"
    shell:
        table.command("mask_constants")


rule join_module:
    input:
        **reads("join_module", "asics"),
    output:
        **writes("join_module", "constants"),
    log:
        table.log("join_module"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("join_module"),
    params:
        **params_of("join_module"),
    message:
        "{wildcards.constants}: join the ASICs of module {wildcards.module}"
    shell:
        table.command("join_module")


rule join_constants:
    input:
        **reads("join_constants", "modules"),
    output:
        **writes("join_constants", "constants"),
    log:
        table.log("join_constants"),
    wildcard_constraints:
        constants=table.detectors(integrating=True),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("join_constants"),
    params:
        **params_of("join_constants"),
    message:
        "{wildcards.constants}: join the modules"
    shell:
        table.command("join_constants")


# ----------------------------------------------------------------------- photon counters


rule counter_dark:
    input:
        **reads("counter_dark", "raw"),
    output:
        **writes("counter_dark", "constants"),
    log:
        table.log("counter_dark"),
    wildcard_constraints:
        constants=table.detectors(integrating=False),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("counter_dark"),
    params:
        **params_of("counter_dark"),
    message:
        "{wildcards.constants}: hot pixels"
    shell:
        table.command("counter_dark")


rule counter_flood:
    input:
        **reads("counter_flood", "raw", "geometry", "dark"),
    output:
        **writes("counter_flood", "constants"),
    log:
        table.log("counter_flood"),
    wildcard_constraints:
        constants=table.detectors(integrating=False),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("counter_flood"),
    params:
        **params_of("counter_flood"),
    message:
        "{wildcards.constants}: flat field"
    shell:
        table.command("counter_flood")


rule counter_stability:
    input:
        **reads("counter_stability", "raw"),
    output:
        **writes("counter_stability", "constants"),
    log:
        table.log("counter_stability"),
    wildcard_constraints:
        constants=table.detectors(integrating=False),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("counter_stability"),
    params:
        **params_of("counter_stability"),
    message:
        "{wildcards.constants}: pixels that are always strong"
    shell:
        table.command("counter_stability")


rule counter_rate:
    input:
        **reads("counter_rate", "raw"),
    output:
        **writes("counter_rate", "constants"),
    log:
        table.log("counter_rate"),
    wildcard_constraints:
        constants=table.detectors(integrating=False),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("counter_rate"),
    params:
        **params_of("counter_rate"),
    message:
        "{wildcards.constants}: dead time"
    shell:
        table.command("counter_rate")


rule counter_constants:
    input:
        **reads("counter_constants", "dark", "flood", "stability", "rate", "files"),
    output:
        **writes("counter_constants", "constants", "picture", "metrics"),
    log:
        table.log("counter_constants"),
    wildcard_constraints:
        constants=table.detectors(integrating=False),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("counter_constants"),
    params:
        **params_of("counter_constants"),
    message:
        "{wildcards.constants}: mask and flat field"
    shell:
        table.command("counter_constants")


# ----------------------------------------------------------------------------- both


rule constants_report:
    input:
        **reads("constants_report", "constants"),
    output:
        **writes("constants_report", "histograms", "maps", "table"),
    log:
        table.log("constants_report"),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("constants_report"),
    params:
        **params_of("constants_report"),
    message:
        "{wildcards.constants}: pictures and table of the constants"
    shell:
        table.command("constants_report")


rule propose_constants:
    input:
        **reads("propose_constants", "constants", "report"),
    output:
        **writes("propose_constants", "proposed"),
    log:
        table.log("propose_constants"),
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **resources_of("propose_constants"),
    params:
        **params_of("propose_constants"),
    message:
        "propose the constants {wildcards.constants} to the calibration store"
    shell:
        table.command("propose_constants")
