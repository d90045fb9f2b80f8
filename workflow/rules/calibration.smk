# Detector geometry: powder rings or a PONI file -> geometry.json


rule powder_calibration:
    input:
        **reads("powder_calibration", "image", "files"),
    output:
        **writes("powder_calibration", "geometry", "poni", "picture"),
    log:
        log_of("powder_calibration"),
    benchmark:
        times_of("powder_calibration")
    wildcard_constraints:
        calibration=one_of(table.calibrations(images=True)),
    conda:
        ENVIRONMENT
    resources:
        **resources_of("powder_calibration"),
    params:
        **params_of("powder_calibration"),
    message:
        "powder calibration {wildcards.calibration}: rings of {input.image}"
    shell:
        command("powder_calibration")


rule import_poni:
    input:
        **reads("import_poni", "poni"),
    output:
        **writes("import_poni", "geometry"),
    log:
        log_of("import_poni"),
    wildcard_constraints:
        calibration=one_of(table.calibrations(images=False)),
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **resources_of("import_poni"),
    params:
        **params_of("import_poni"),
    message:
        "import PONI geometry {wildcards.calibration}: {input.poni}"
    shell:
        command("import_poni")
