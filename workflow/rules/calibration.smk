# Detector geometry: powder rings or a PONI file -> geometry.json


rule powder_calibration:
    input:
        image=calibration_file,
        files=outside(lambda w: hklconfig.files(settings.calibrations[w.calibration])),
    output:
        geometry=paths.calibration("geometry.json"),
        poni=paths.calibration("geometry.poni"),
        picture=report(
            paths.calibration("rings.png"),
            caption="../report/rings.rst",
            category="1 Detector",
            labels={"of": "{calibration}", "shows": "powder rings"},
        ),
    log:
        paths.log("powder_calibration", "calibration"),
    benchmark:
        paths.benchmark("powder_calibration", "calibration")
    wildcard_constraints:
        calibration=one_of(POWDER),
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("powder_calibration"),
        runtime=minutes("powder_calibration"),
    params:
        image=quoted(calibration_file),
        flags=calibration_flags,
        version=stages.powder_calibration.VERSION,
    message:
        "powder calibration {wildcards.calibration}: rings of {params.image}"
    shell:
        "python -m hklflow.stages.powder_calibration --image {params.image}"
        " --geometry {output.geometry:q} --poni {output.poni:q} --picture {output.picture:q}"
        " {params.flags} > {log:q} 2>&1"


rule import_poni:
    input:
        poni=calibration_file,
    output:
        geometry=paths.calibration("geometry.json"),
    log:
        paths.log("import_poni", "calibration"),
    wildcard_constraints:
        calibration=one_of(PONI),
    localrule: True
    conda:
        "../../envs/hklflow.yaml"
    resources:
        mem_mb=memory("import_poni"),
        runtime=minutes("import_poni"),
    params:
        poni=quoted(calibration_file),
        flags=calibration_flags,
        version=stages.import_poni.VERSION,
    message:
        "import PONI geometry {wildcards.calibration}: {params.poni}"
    shell:
        "python -m hklflow.stages.import_poni --poni {params.poni} --geometry {output.geometry:q}"
        " {params.flags} > {log:q} 2>&1"
