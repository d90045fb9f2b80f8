# `snakemake` in a clone finds this file first; the workflow itself is workflow/Snakefile
include: "workflow/Snakefile"


# a default target that is named in an included file is ignored: name it here
workflow.default_target = "all"
