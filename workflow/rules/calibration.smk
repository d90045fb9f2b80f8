# Detector geometry: powder rings or a PONI file -> geometry.json


rule powder_calibration:
    input:
        **reads("powder_calibration", "image", "files"),
    output:
        **writes("powder_calibration", "geometry", "poni", "picture", "powder"),
    log:
        table.log("powder_calibration"),
    benchmark:
        table.benchmark("powder_calibration")
    wildcard_constraints:
        calibration=table.calibrations(images=True),
    retries: RETRIES
    conda:
        ENVIRONMENT
    resources:
        **resources_of("powder_calibration"),
    params:
        **params_of("powder_calibration"),
    message:
        "powder calibration {wildcards.calibration}: rings of {input.image}"
    shell:
        table.command("powder_calibration")


rule import_poni:
    input:
        **reads("import_poni", "poni"),
    output:
        **writes("import_poni", "geometry"),
    log:
        table.log("import_poni"),
    wildcard_constraints:
        calibration=table.calibrations(images=False),
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
        table.command("import_poni")
